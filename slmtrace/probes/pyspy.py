"""The py-spy probe: Python stacks of every process of the target, sampled from outside without ever pausing it.

py-spy's trace becomes SAMPLE records when the recording ends. It counts time from its own start, which we bracket, so
samples are placed with a bounded error of some milliseconds; they label what happened, and cut nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ..capture.directory import Capture
from ..capture.layout import ClockId, SlotKind
from ..errors import SlmtraceError
from .base import Availability, Probe, ProbeResult, RecordOptions
from .chrometrace import read_stretches
from .sampler import Sampler
from .slotlog import SlotLog

RETRY_NS = 1_000_000_000  # a target that is not Python yet, or replaced itself by exec
MAX_RUNS = 20
CHECK_TIMEOUT_S = 20


class PySpyProbe(Probe):
    """Runs py-spy beside the target, again when it gave up before the target did."""

    name = "pyspy"

    def __init__(self) -> None:
        self._capture: Capture | None = None
        self._sample_hz = RecordOptions().sample_hz
        self._pid = 0
        self._runs: list[Sampler] = []
        self._retry_ns = 0

    def check(self) -> Availability:
        """Sample our own process once, as a stranger: py-spy is no ancestor of the target either."""
        program = find_pyspy()
        if program is None:
            return Availability("unavailable", "py-spy is not installed", "pip install py-spy")
        command = [program, "dump", "--nonblocking", "--pid", str(os.getpid())]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return Availability("unavailable", f"py-spy does not run: {error}", "pip install --force-reinstall py-spy")
        if done.returncode != 0:
            return _explain_failure(done.stderr or done.stdout)
        return Availability("ok", detail={"version": _version(program)})

    def start(self, capture: Capture, options: RecordOptions) -> None:
        """Remember where to write; sampling starts with the target."""
        if find_pyspy() is None:
            raise SlmtraceError("py-spy is not installed", hint="pip install py-spy")
        self._capture = capture
        self._sample_hz = options.sample_hz

    def enroll(self, pid: int) -> None:
        """Sample this process and those that it will start, once it runs."""
        self._pid = pid

    def poll(self) -> None:
        """Start py-spy with the target, and again when it ended before the target did."""
        is_sampling = bool(self._runs) and self._runs[-1].is_running()
        if is_sampling or not self._pid or time.monotonic_ns() < self._retry_ns or len(self._runs) >= MAX_RUNS:
            return
        program = find_pyspy()
        if program is None or self._capture is None or not _is_alive(self._pid):
            return
        cache = self._capture.path / "cache"
        cache.mkdir(mode=0o700, exist_ok=True)
        output = cache / f"pyspy.{len(self._runs)}.json"
        try:
            self._runs.append(Sampler(program, self._pid, self._sample_hz, output))
        except OSError:
            self._pid = 0  # stop() says that nothing was sampled
        self._retry_ns = time.monotonic_ns() + RETRY_NS

    def stop(self) -> ProbeResult:
        """End py-spy and turn what it wrote into a raw log."""
        for run in self._runs:
            run.stop()
        overhead = {"cpu_ns": sum(run.cpu_ns for run in self._runs), "method": "CPU time of the py-spy processes"}
        if self._capture is None or not any(run.output.exists() for run in self._runs):
            reason = self._runs[-1].complaint() if self._runs else "the target ended before py-spy could start"
            return ProbeResult("partial", reason or "py-spy wrote nothing", overhead=overhead)
        lost = {"read_error": sum(run.n_errors() for run in self._runs), "unknown_thread": 0}
        log = SlotLog(self._capture.raw / "pyspy.bin", "pyspy", sample_hz=self._sample_hz)
        for run in self._runs:
            if run.output.exists():
                lost["unknown_thread"] += _convert(run, log)
                run.output.unlink()
        log.close()
        lost["log_write"] = log.lost
        lost = {cause: n for cause, n in lost.items() if n}
        facts = {"n_runs": len(self._runs), "sample_hz": self._sample_hz, "mode": "nonblocking"}
        seen = log.written + sum(lost.values())
        return ProbeResult("ok", seen=seen, written=log.written, lost=lost, overhead=overhead, facts=facts)


def find_pyspy() -> str | None:
    """Return the program: the one beside our interpreter, else the one on PATH."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


def _convert(run: Sampler, log: SlotLog) -> int:
    """Write one run's samples; return how many stretches were of threads that py-spy could not name."""
    stretches = list(read_stretches(run.output))
    last_ns = max((stretch.end_ns for stretch in stretches), default=0)
    earliest_ns, latest_ns = run.bracket_start(last_ns)
    # Samples are written as if py-spy had started in the middle; the clock read says how far off that may be.
    start_ns = earliest_ns + (latest_ns - earliest_ns) // 2
    log.append(SlotKind.CLOCK, earliest_ns, latest_ns, a=start_ns, name=ClockId.PYSPY)
    n_unknown = 0
    for stretch in stretches:
        if stretch.tid == 0:
            n_unknown += 1
            continue
        log.append(
            SlotKind.SAMPLE,
            start_ns + stretch.start_ns,
            start_ns + stretch.end_ns,
            b=stretch.pid,
            tid=stretch.tid,
            name=log.intern(stretch.stack),
        )
    return n_unknown


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=CHECK_TIMEOUT_S)
    return done.stdout.strip().rpartition(" ")[2]


def _explain_failure(text: str) -> Availability:
    first_line = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    if "ermission" not in text and "not permitted" not in text:
        return Availability("unavailable", f"py-spy cannot read a process: {first_line}", "pip install -U py-spy")
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        scope = 0
    if scope:
        reason = f"reading other processes is denied (kernel.yama.ptrace_scope is {scope})"
        return Availability("unavailable", reason, "sysctl -w kernel.yama.ptrace_scope=0, or run as root")
    return Availability(
        "unavailable",
        "reading other processes is denied (no CAP_SYS_PTRACE)",
        "run as root, or start the container with --cap-add SYS_PTRACE",
    )
