"""Record one run of a command: check probes, start them, start the target behind its gate, follow it, keep the books.

In comes a Recording, out goes a finished capture directory and the target's exit code.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread

from .capture.directory import Capture
from .errors import CaptureError, LaunchError
from .launch import Exited, Gate, reap, resolve_program, wait_for_exit
from .probes.base import ProbeResult, RecordOptions
from .probes.group import ProbeGroup
from .probes.malloc import LIBC
from .recording.accounts import disk_counts_since, read_accounts, read_disk_counts
from .recording.allocator import AllocatorWatch
from .recording.clocks import ClockLog
from .recording.ending import Ending, Until
from .recording.manifest import books_of, first_manifest, note_state, sources_of, warnings_of
from .recording.ownership import give_to_caller, topmost_missing
from .recording.pagecache import make_cold, make_warm
from .recording.progress import Progress
from .recording.signals import SignalRelay
from .recording.tail import RangesTail

POLL_S = 0.1  # as often as counters are read: each look takes a CPU from the target
# What the first manifest says of a probe; the last one says better, unless nobody lived to write it.
UNTOLD = ProbeResult("partial", "the recorder was killed before it could say how this probe fared")


@dataclass(frozen=True, slots=True)
class Recording:
    """What to record, and how."""

    command: tuple[str, ...]
    probes: tuple[str, ...]
    required: tuple[str, ...] = ()
    probes_if_present: tuple[str, ...] = ()  # not missed where there is nothing for them to measure
    options: RecordOptions = field(default_factory=RecordOptions)
    until: Until = field(default_factory=Until)
    engine: str = "command"
    engine_version: str = ""
    model: str = ""
    weight_files: tuple[Path, ...] = ()
    cache: str = ""  # cold, warm; '': as it is
    environ: Mapping[str, str] = field(default_factory=dict)  # set for the target, over our own
    floors: Mapping[str, float] = field(default_factory=dict)  # what the node can do at best, as measured before


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a recording ended."""

    capture: Capture
    exit_code: int  # the target's; 0 if it was ended on purpose by --until
    status: str  # complete, or aborted: a signal to us ended it
    warnings: tuple[str, ...] = ()


def record(
    recording: Recording, path: Path, progress: Progress, meanwhile: Callable[[], object] | None = None
) -> Outcome:
    """Run a command and write its capture to `path`; call `meanwhile` while the probes start, before the command runs.

    Raises:
        LaunchError: the command could not be started; nothing is left at `path`.
        ProbeUnavailable: a required probe cannot run here; nothing is left at `path`.
        CaptureError: `path` cannot be a new capture.
    """
    program = resolve_program(recording.command[0], {**os.environ, **recording.environ})
    made = topmost_missing(path)
    gate = Gate()  # forked before anything starts a thread or opens a file
    aside = Thread(target=_call_quietly, args=(meanwhile,), daemon=True)
    try:
        # From here on a Ctrl-C is kept until all that begins has been ended in order.
        with SignalRelay() as signals:
            aside.start()
            progress.say("checking probes")
            probes = ProbeGroup(recording.probes, recording.required, recording.probes_if_present)
            session = _Session(recording, Capture.create(path), probes, gate, aside, progress)
            try:
                session.start(program, signals)
                return session.follow(signals)
            finally:
                session.close()
                give_to_caller(made)
    finally:
        gate.abandon()
        progress.clear()


def _call_quietly(meanwhile: Callable[[], object] | None) -> None:
    with contextlib.suppress(Exception):  # it is a preparation: what fails now will say so when it is needed
        if meanwhile is not None:
            meanwhile()


class _Session:
    """The state of one recording between its first and its last manifest."""

    def __init__(
        self,
        recording: Recording,
        capture: Capture,
        probes: ProbeGroup,
        gate: Gate,
        aside: Thread,
        progress: Progress,
    ) -> None:
        self._recording = recording
        self._capture = capture
        self._probes = probes
        self._gate = gate
        self._aside = aside
        self._progress = progress
        self._clock = ClockLog(capture)
        self._disks = read_disk_counts()
        options = {**asdict(recording.options), "probes": list(recording.probes), "cache": recording.cache}
        self._manifest = first_manifest(
            options,
            engine=recording.engine,
            engine_version=recording.engine_version,
            model=recording.model,
            command=recording.command,
        )
        if recording.floors:
            self._manifest["state"]["floors"] = dict(recording.floors)
        self._has_started = False
        self._troubles: dict[str, None] = {}  # what the user has to know, each once

    def start(self, program: str, signals: SignalRelay) -> None:
        """Bring up the probes, then let the target go.

        Raises:
            SlmtraceError: a required probe or the target could not be started, or the user interrupted.
        """
        recording, manifest = self._recording, self._manifest
        self._capture.write_manifest(manifest)
        self._clock.snapshot()
        self._progress.say("starting probes")
        self._probes.start(self._capture, recording.options)
        if recording.cache:
            self._progress.say(f"making the weight files {recording.cache}")
            files = recording.weight_files
            is_cold = recording.cache == "cold"
            manifest["cache"] = make_cold(files) if is_cold else make_warm(files, recording.until.deadline_s)
        note_state(manifest, "before", recording.weight_files, self._gate.pid)
        self._probes.enroll(self._gate.pid)
        environ = self._probes.environ({**os.environ, **recording.environ})
        self._aside.join()  # the target has the machine to itself
        if signals.received:
            raise LaunchError("interrupted before the target was started")
        signals.target_pid = self._gate.pid
        start_ns = self._gate.open(program, recording.command, environ)
        self._has_started = True
        manifest["sources"] = sources_of({**self._probes.results, **dict.fromkeys(self._probes.running, UNTOLD)})
        manifest["target"] = {"pid": self._gate.pid, "start_ns": start_ns}
        self._keep_manifest()

    def follow(self, signals: SignalRelay) -> Outcome:
        """Wait for the target to end, or end it when it has done what was asked, and finish the capture."""
        pid = self._gate.pid
        tail = RangesTail(self._capture.raw)
        ending = Ending(pid, self._recording.until)
        allocator = AllocatorWatch(pid)
        while not wait_for_exit(pid, POLL_S):
            self._probes.poll()
            allocator.poll()
            if ending.is_wanted or self._progress.is_due():
                seen = tail.look()
                ending.consider(seen)
                self._progress.show(seen)
        end_ns = time.monotonic_ns()
        shortfall = self._recording.until.shortfall(tail.look()) if ending.is_wanted else ""
        self._manifest["accounts"] = {**read_accounts(pid), "disks": disk_counts_since(self._disks)}
        if allocator.name != LIBC:
            self._manifest["state"].setdefault("allocator", {}).setdefault("before", {})["name"] = allocator.name
        signals.target_pid = 0  # from here on the number may belong to somebody else
        exited = reap(pid)
        if shortfall and not ending.has_begun and not signals.received:
            ended = f"the target ended with exit code {exited.exit_code} before --until was reached"
            self._troubles[f"{ended}: {shortfall}; what it printed may say why"] = None
        self._progress.say("finishing the capture")
        return self._finish(exited, end_ns, ending, signals)

    def close(self) -> None:
        """Stop what still runs; a capture whose target never ran says nothing, and is removed."""
        self._probes.stop()
        self._clock.close()
        if not self._has_started:
            shutil.rmtree(self._capture.path, ignore_errors=True)

    def _finish(self, exited: Exited, end_ns: int, ending: Ending, signals: SignalRelay) -> Outcome:
        results = self._probes.stop()
        self._clock.snapshot()
        manifest = self._manifest
        status = "aborted" if signals.received else "complete"
        interrupted_by = signal.Signals(signals.received).name if signals.received else ""
        ended_by = "until" if ending.has_begun else interrupted_by or "target"
        manifest["target"].update(
            end_ns=end_ns, exit_code=exited.exit_code, signal=exited.signal, usage=exited.usage, ended_by=ended_by
        )
        if interrupted_by:
            manifest["target"]["interrupted_ns"] = signals.received_ns
        note_state(manifest, "after", self._recording.weight_files, None)
        manifest.update(books_of(results, self._clock.books()), status=status)
        self._keep_manifest()
        exit_code = 0 if ending.has_begun and exited.signal else exited.exit_code
        return Outcome(self._capture, exit_code, status, (*warnings_of(manifest), *self._troubles))

    def _keep_manifest(self) -> None:
        """Write the manifest; the target runs by now, and no trouble with the capture is a reason to leave it alone."""
        try:
            self._capture.write_manifest(self._manifest)
        except CaptureError as error:
            self._troubles[str(error)] = None
