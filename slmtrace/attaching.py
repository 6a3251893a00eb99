"""Record a process tree that runs already: enrol it, watch it for a while, let go; nothing in it is touched.

In comes a process id, out goes a finished capture directory. What would have to be loaded into the target is left out:
its requests are told by its HTTP connections, its use of GPUs by the functions of the CUDA driver that it calls.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import psutil

from .capture.directory import Capture
from .errors import ProbeUnavailable, UsageError
from .probes.base import ProbeResult, RecordOptions
from .probes.collector.sites import CUDA_DRIVERS, mapped_libraries
from .probes.ebpf import named_socket
from .probes.group import ProbeGroup
from .recorder import POLL_S, UNTOLD, Outcome
from .recording.clocks import ClockLog
from .recording.manifest import books_of, first_manifest, note_state, sources_of, warnings_of
from .recording.ownership import give_to_caller, topmost_missing
from .recording.progress import Progress
from .recording.signals import SignalRelay

ENGINE = "attach"
# These are loaded into a program when it starts.
_LACKING = {"ranges": "no ranges", "malloc": "no allocator calls", "cuda": "no GPU activity"}
_DRIVER_CALLS = "attached to a running process: calls of the CUDA driver alone, told by eBPF"


@dataclass(frozen=True, slots=True)
class Attachment:
    """Which running process to record, for how long, and how."""

    pid: int
    probes: tuple[str, ...]
    required: tuple[str, ...] = ()
    probes_if_present: tuple[str, ...] = ()
    options: RecordOptions = field(default_factory=RecordOptions)
    duration_s: float = float("inf")


def attach(attachment: Attachment, path: Path, progress: Progress) -> Outcome:
    """Record a running process tree into `path` until its time is over, the process ends, or the user interrupts.

    Raises:
        UsageError: there is no such process, or it is one that records.
        ProbeUnavailable: a required probe cannot run here, or not on a running process; nothing is left at `path`.
        CaptureError: `path` cannot be a new capture.
    """
    command = _find_command(attachment.pid)
    for name in attachment.required:
        if name in _LACKING:
            raise ProbeUnavailable(
                f"the required probe {name} cannot join a running process",
                hint="start the program under slmtrace record",
            )
    exit_fd = _watch_exit(attachment.pid)
    made = topmost_missing(path)
    try:
        # From here on a Ctrl-C is kept until all that begins has been ended in order.
        with SignalRelay() as signals:
            progress.say("checking probes")
            session = _Session(attachment, command, path, progress)
            try:
                session.start()
                return session.follow(exit_fd, signals)
            finally:
                session.close()
                give_to_caller(made)
    finally:
        os.close(exit_fd)
        progress.clear()


class _Session:
    """The state of one recording of a running process."""

    def __init__(self, attachment: Attachment, command: list[str], path: Path, progress: Progress) -> None:
        self._pid = attachment.pid
        self._duration_s = attachment.duration_s
        drivers = () if named_socket() else _find_drivers(attachment.pid)
        self._options = replace(attachment.options, http=True, cuda_libraries=drivers)
        self._probes = ProbeGroup(_able(attachment.probes), attachment.required, _able(attachment.probes_if_present))
        for name in attachment.probes:
            if name in _LACKING:
                reason = f"attached to a running process: {_LACKING[name]}"
                self._probes.results[name] = ProbeResult("unavailable", reason)
        self._capture = Capture.create(path)
        self._progress = progress
        self._clock = ClockLog(self._capture)
        self._manifest = first_manifest(
            {**asdict(self._options), "probes": list(attachment.probes)}, engine=ENGINE, command=command
        )
        self._has_started = False

    def start(self) -> None:
        """Bring up the probes, and enrol the process with all that descends from it.

        Raises:
            ProbeUnavailable: a required probe could not be started.
        """
        manifest = self._manifest
        self._clock.snapshot()
        note_state(manifest, "before", (), self._pid)
        self._progress.say("starting probes")
        self._probes.start(self._capture, self._options)
        if self._options.cuda_libraries and "ebpf" in self._probes.running:
            self._probes.results["cuda"] = ProbeResult("partial", _DRIVER_CALLS)
        self._probes.enroll(self._pid)
        self._has_started = True
        manifest["target"] = {"pid": self._pid, "attached_ns": time.monotonic_ns()}
        manifest["sources"] = sources_of({**self._probes.results, **dict.fromkeys(self._probes.running, UNTOLD)})
        self._capture.write_manifest(manifest)

    def follow(self, exit_fd: int, signals: SignalRelay) -> Outcome:
        """Record until something ends it, and finish the capture."""
        exit_poll = select.poll()
        exit_poll.register(exit_fd, select.POLLIN)
        deadline_s = time.monotonic() + self._duration_s
        has_ended = False
        while not has_ended and not signals.received and time.monotonic() < deadline_s:
            has_ended = bool(exit_poll.poll(1000 * min(POLL_S, max(0.0, deadline_s - time.monotonic()))))
            self._probes.poll()
            self._progress.say(f"recording process {self._pid}")
        end_ns = time.monotonic_ns()
        self._progress.say("finishing the capture")
        ended_by = "target" if has_ended else "duration"
        if signals.received:
            ended_by = signal.Signals(signals.received).name
        return self._finish(end_ns, ended_by)

    def close(self) -> None:
        """Stop what still runs; a capture of nothing is removed."""
        self._probes.stop()
        self._clock.close()
        if not self._has_started:
            shutil.rmtree(self._capture.path, ignore_errors=True)

    def _finish(self, end_ns: int, ended_by: str) -> Outcome:
        results = self._probes.stop()
        self._clock.snapshot()
        manifest = self._manifest
        manifest["target"].update(end_ns=end_ns, ended_by=ended_by)
        note_state(manifest, "after", (), None)
        # To be interrupted is an ordinary end: the target goes on.
        manifest.update(books_of(results, self._clock.books()), status="complete")
        self._capture.write_manifest(manifest)
        return Outcome(self._capture, 0, "complete", tuple(warnings_of(manifest)))


def _able(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in _LACKING)


def _find_drivers(pid: int) -> tuple[str, ...]:
    """Return the CUDA drivers that a process and its descendants have mapped."""
    try:
        process = psutil.Process(pid)
        pids = [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return ()
    return tuple(sorted({path for each in pids for path in mapped_libraries(each, CUDA_DRIVERS)}))


def _find_command(pid: int) -> list[str]:
    """Return the command line of a process that can be recorded.

    Raises:
        UsageError: it cannot.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError as error:
        raise UsageError(f"there is no process {pid}", hint="pgrep -f vllm lists those of a server") from error
    if not words[0]:
        raise UsageError(f"process {pid} has no program: a thread of the kernel, or it has ended")
    if pid in (os.getpid(), *(parent.pid for parent in psutil.Process().parents())):
        raise UsageError(f"process {pid} runs this recording, which would record itself", hint="name another process")
    return [os.fsdecode(word) for word in words if word]


def _watch_exit(pid: int) -> int:
    """Return a descriptor that becomes readable when the process ends.

    Raises:
        UsageError: it has just ended, or is a thread.
    """
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        raise UsageError(f"process {pid} cannot be watched: {error.strerror}", hint="name a process") from error
