#!/usr/bin/env python3
"""Kill and starve recordings at random moments, and look at what is left.

    python -m tools.chaos [--rounds 10] [--seconds S] [--only NAME...] [--seed 0]

Each round records a small program and does one thing to it: kills the target, its worker, the collector or the recorder
(SIGKILL), interrupts twice, suspends the target for a while, fills the disk, removes the capture, or takes file
descriptors away. Afterwards: the capture reads or one clear message says why not; no process, BPF program, mount or
scratch directory stays; and the program's output and exit code are what they are without a recording, unless it was the
victim.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

from slmtrace.capture.syscalls import syscall_names
from slmtrace.output.json_ import check_conservation

T = TypeVar("T")

# About a second of work with threads, faults, reads, sleeps and a worker that it can do without; its last words and its
# exit code are known.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a traceback of its own would look like ours
import hashlib, subprocess, sys, threading, time
def work():
    data = bytes(200_000)
    for _ in range(20):
        hashlib.sha256(data).hexdigest(); open('/proc/self/stat').read(); bytearray(1 << 20); time.sleep(0.02)
if sys.argv[1:] == ['worker']:
    work(); raise SystemExit
worker = subprocess.Popen([sys.executable, __file__, 'worker'])
threads = [threading.Thread(target=work) for _ in range(3)]
for t in threads: t.start()
for t in threads: t.join()
worker.wait()
print('the end', flush=True)
raise SystemExit(7)
"""
EXIT_CODE, OUTPUT = 7, "the end\n"
_BPF_CALL = next(number for number, name in syscall_names(platform.machine()).items() if name == "bpf")
_PROG_GET_NEXT_ID = 11
ROUND_LIMIT_S = 60
SETTLE_S = 15
# The longest that a round waits before it acts: from the first import of the recorder to after the target's end.
LATEST_S = 5.0


@dataclass(slots=True)
class Round:
    """One recording, and what to do to it."""

    name: str
    scratch: Path
    chance: random.Random
    recorder: subprocess.Popen[bytes] | None = None
    capture: Path = Path()
    may_change: bool = False  # the program itself was hit, or never started
    told: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """Return where the program's output goes."""
        return self.scratch / "out"

    def start(self, **options: object) -> None:
        """Start recording."""
        self.capture = self.capture if self.capture.name else self.scratch / "capture"
        command = [sys.executable, "-m", "slmtrace", "record", "--probes", "ranges,ebpf,proc", "-o", str(self.capture)]
        environ = {**os.environ, "TMPDIR": str(self.scratch / "tmp")}
        with self.out.open("wb") as out, (self.scratch / "err").open("wb") as err:
            self.recorder = subprocess.Popen(
                [*command, "--", sys.executable, str(self.scratch / "program.py")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environ,
                start_new_session=True,
                **options,  # type: ignore[call-overload]
            )

    def processes(self) -> list[psutil.Process]:
        """Return every process that this recording started and that still runs."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = " ".join(process.info["cmdline"] or [])
            if str(self.scratch) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def find(self, victim: str) -> psutil.Process | None:
        """Return the collector, the target, its worker or the recorder, if it runs."""
        return next((process for process in self.processes() if self._kind(process) == victim), None)

    def _kind(self, process: psutil.Process) -> str:
        try:
            words = process.cmdline()
        except psutil.NoSuchProcess:
            return ""
        if self.recorder and process.pid == self.recorder.pid:
            return "recorder"
        if any("slmtrace.probes.collector" in word for word in words):
            return "collector"
        if "record" in words:  # the gate, which becomes the target
            return ""
        return "worker" if words[-1:] == ["worker"] else "target"


def kill(one: Round, victim: str) -> None:
    """Kill a process with SIGKILL at a random moment of its life."""
    one.start()
    one.may_change = victim == "target"
    deadline_s = time.monotonic() + 20
    found = one.find(victim)
    while found is None and time.monotonic() < deadline_s and one.recorder and one.recorder.poll() is None:
        time.sleep(0.005)
        found = one.find(victim)
    time.sleep(one.chance.uniform(0, {"target": 1.2, "worker": 0.8, "collector": 4.0, "recorder": LATEST_S}[victim]))
    if found is not None:
        try:
            found.kill()
        except psutil.NoSuchProcess:
            one.told.append("too late")


def interrupt_twice(one: Round) -> None:
    """Send SIGINT to the recorder, and once more."""
    one.start()
    one.may_change = True
    # Before that the interpreter itself is starting, and a traceback is its own.
    time.sleep(one.chance.uniform(0.1, LATEST_S))
    for _ in range(2):
        assert one.recorder is not None
        one.recorder.send_signal(signal.SIGINT)
        time.sleep(one.chance.uniform(0, 0.3))


def suspend(one: Round) -> None:
    """Stop the target for half a second."""
    one.start()
    target = None
    while target is None and one.recorder and one.recorder.poll() is None:
        target = one.find("target")
        time.sleep(0.01)
    time.sleep(one.chance.uniform(0, 0.5))
    if target is not None and target.is_running():
        target.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        target.send_signal(signal.SIGCONT)


def remove_capture(one: Round) -> None:
    """Remove the capture directory while it is written."""
    one.start()
    time.sleep(one.chance.uniform(0.3, LATEST_S))
    shutil.rmtree(one.capture, ignore_errors=True)


def fill_disk(one: Round) -> None:
    """Write the capture to a file system that is too small for it."""
    one.capture = one.scratch / "small" / "capture"
    one.start()


def take_descriptors(one: Round) -> None:
    """Let the recorder have few file descriptors."""
    limit = one.chance.randrange(8, 64)
    one.may_change = True
    one.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)))
    one.told.append(f"{limit} descriptors")


ACTIONS: dict[str, Callable[[Round], None]] = {
    "target": lambda one: kill(one, "target"),
    "worker": lambda one: kill(one, "worker"),
    "collector": lambda one: kill(one, "collector"),
    "recorder": lambda one: kill(one, "recorder"),
    "sigint": interrupt_twice,
    "suspend": suspend,
    "disk": fill_disk,
    "removed": remove_capture,
    "descriptors": take_descriptors,
}


def main() -> int:
    """Run the rounds; the exit code says whether one left something behind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="of each kind")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no round after these")
    parser.add_argument("--only", nargs="*", choices=sorted(ACTIONS), default=list(ACTIONS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep the directory of a round that failed")
    args = parser.parse_args()
    n_failed, until_s, n_done = 0, time.monotonic() + args.seconds, Counter[str]()
    for number, name in itertools.product(range(args.rounds), args.only):
        if time.monotonic() >= until_s:
            break
        complaints = _run(name, f"{args.seed}:{name}:{number}", args.keep)
        n_done[name] += 1
        n_failed += bool(complaints)
        for complaint in complaints:
            print(f"{name} {number}: {complaint}", flush=True)
    print("; ".join(f"{name}: {n} rounds" for name, n in n_done.items()))
    print(f"{n_failed} rounds failed")
    return int(n_failed > 0)


def _run(name: str, seed: str, keep: bool) -> list[str]:
    scratch = Path(tempfile.mkdtemp(prefix="slmtrace-chaos-"))
    (scratch / "tmp").mkdir()
    (scratch / "program.py").write_text(PROGRAM)
    one = Round(name, scratch, random.Random(seed))
    programs = _bpf_programs()
    with _small_file_system(scratch, one.chance) if name == "disk" else _nothing():
        ACTIONS[name](one)
        complaints = list(_complaints(one, programs))
    if complaints and keep:
        complaints.append(f"kept in {scratch}")
    else:
        shutil.rmtree(scratch, ignore_errors=True)
    return [" ".join([*one.told, complaint]) for complaint in complaints]


def _complaints(one: Round, programs: set[int]) -> Iterator[str]:
    assert one.recorder is not None
    try:
        code = one.recorder.wait(ROUND_LIMIT_S)
    except subprocess.TimeoutExpired:
        yield f"the recorder hangs: {_describe(one.processes())}"
        one.recorder.kill()
        return
    left = _settle(one.processes)
    if left:
        yield f"left behind: {_describe(left)}"
        for process in left:
            process.kill()
    if code not in (EXIT_CODE, -signal.SIGKILL) and not one.may_change:
        yield f"exit code {code}"
    if not one.may_change and one.name != "recorder" and one.out.read_text() != OUTPUT:
        yield f"output {one.out.read_text()!r}"
    message = (one.scratch / "err").read_text()
    if "Traceback" in message:
        yield f"a traceback: {message[-800:]}"
    yield from _read_back(one)
    if scratch := [path.name for path in (one.scratch / "tmp").iterdir() if one.name != "recorder"]:
        yield f"scratch left behind: {scratch}"
    if left_programs := _settle(lambda: sorted(_bpf_programs() - programs) if not _other_collectors() else []):
        yield f"BPF programs left behind: {left_programs}"


def _read_back(one: Round) -> Iterator[str]:
    """Read the capture, if there is one."""
    if not one.capture.is_dir():
        return
    command = [sys.executable, "-m", "slmtrace", "report", str(one.capture), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        yield from check_conservation(json.loads(done.stdout))
    elif done.returncode != 4 or len(done.stderr.splitlines()) > 2:
        yield f"report says {done.returncode}: {done.stderr[-500:]}"


def _settle(look: Callable[[], list[T]]) -> list[T]:
    """Return what is still there after a while."""
    deadline_s = time.monotonic() + SETTLE_S
    while (found := look()) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    return found


def _describe(processes: list[psutil.Process]) -> str:
    return "; ".join(" ".join(one.cmdline())[-120:] for one in processes)


def _bpf_programs() -> set[int]:
    """Return the ids of all BPF programs that the kernel has loaded (bpf(2), BPF_PROG_GET_NEXT_ID)."""
    libc, found = ctypes.CDLL(None, use_errno=True), set()
    attributes = (ctypes.c_uint32 * 3)()
    while libc.syscall(_BPF_CALL, _PROG_GET_NEXT_ID, ctypes.byref(attributes), 12) == 0:
        found.add(attributes[1])
        attributes[0] = attributes[1]
    return found


def _other_collectors() -> bool:
    """Say whether somebody else records on this machine: their programs come and go."""
    found = psutil.process_iter(["cmdline"])
    return any("slmtrace.probes.collector" in " ".join(process.info["cmdline"] or []) for process in found)


@contextmanager
def _small_file_system(scratch: Path, chance: random.Random) -> Iterator[None]:
    place = scratch / "small"
    place.mkdir()
    size_kib = chance.choice((16, 64, 128, 256, 512, 1024, 2048))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


if __name__ == "__main__":
    sys.exit(main())
