"""One py-spy process: started, watched, stopped, and the bracket of the moment from which it counts its time."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

STOP_TIMEOUT_S = 30  # it writes its whole trace at the end
START_TIMEOUT_S = 2
THREAD_POLL_S = 0.0005
_PR_SET_PDEATHSIG = 1
_SUMMARY = re.compile(r"Samples: (\d+) Errors: (\d+)")

# Looked up before the fork: the child may not import.
_prctl = ctypes.CDLL(None).prctl


class Sampler:
    """A running `py-spy record`. It ends with its target, and with us."""

    def __init__(self, program: str, pid: int, sample_hz: int, output: Path) -> None:
        self.output = output
        self.cpu_ns = 0
        command = [program, "record", "--nonblocking", "--subprocesses", "--threads", "--idle", "--function"]
        command += ["--rate", str(sample_hz), "--format", "chrometrace", "--pid", str(pid), "--output", str(output)]
        self._lines: list[tuple[int, str]] = []
        self._started_ns = time.monotonic_ns()
        self._first_thread_ns = 0
        # Its own session, so that Ctrl-C on the terminal is ours to pass on.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509  (it calls prctl alone, looked up beforehand)
        )
        self._reader = threading.Thread(target=self._follow, name="slmtrace-pyspy", daemon=True)
        self._reader.start()

    def is_running(self) -> bool:
        """Say whether it still samples."""
        return self._process.returncode is None and not self._reap(os.WNOHANG)

    def stop(self) -> None:
        """Make it write its trace and end; kill it when it does not within 30 s."""
        if self.is_running():
            self._process.send_signal(signal.SIGINT)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while self.is_running() and time.monotonic() < deadline:
                time.sleep(0.01)
            if self.is_running():
                self._process.kill()
                self._reap(0)
        self._reader.join(timeout=START_TIMEOUT_S)

    def bracket_start(self, last_ns: int) -> tuple[int, int]:
        """Return the earliest and latest CLOCK_MONOTONIC of its time 0, given the last time that it wrote."""
        return bracket_start(self._started_ns, self._first_thread_ns, self._lines, last_ns)

    def n_errors(self) -> int:
        """Return how many samples failed, by its own count."""
        matches = [match for _, line in self._lines if (match := _SUMMARY.search(line))]
        return int(matches[-1][2]) if matches else 0

    def complaint(self) -> str:
        """Return its last words when it failed."""
        lines = [line for _, line in self._lines if "rror" in line or "ailed" in line or "No python" in line]
        return lines[0].removeprefix("Error: ") if lines else ""

    def _follow(self) -> None:
        """Watch for its first thread, then read its lines, each with its time."""
        deadline = time.monotonic() + START_TIMEOUT_S
        tasks = Path(f"/proc/{self._process.pid}/task")
        while time.monotonic() < deadline:
            try:
                has_threads = tasks.stat().st_nlink > 3  # itself, its parent, one thread
            except OSError:
                break
            if has_threads:
                self._first_thread_ns = time.monotonic_ns()
                break
            time.sleep(THREAD_POLL_S)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append((time.monotonic_ns(), line.decode(errors="replace").strip()))

    def _reap(self, flags: int) -> bool:
        try:
            pid, status, usage = os.wait4(self._process.pid, flags)
        except ChildProcessError:  # somebody else reaped it
            self._process.returncode = 0
            return True
        if pid == 0:
            return False
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_ns = round((usage.ru_utime + usage.ru_stime) * 1e9)
        return True


def bracket_start(started_ns: int, first_thread_ns: int, lines: list[tuple[int, str]], last_ns: int) -> tuple[int, int]:
    """Return the earliest and latest CLOCK_MONOTONIC at which py-spy can have begun to count its time.

    It does so between our starting it and its first thread. The last time in its trace is past when it says that the
    trace is written. What it said, it said before we read it. (The last time is that of the last change of a stack, so
    it does not tell when sampling ended.)
    """
    latest = [ts_ns - last_ns for ts_ns, line in lines if line.startswith("py-spy> Wrote")]
    latest += [ts_ns for ts_ns, line in lines if line.startswith("py-spy> Sampling")]
    latest += [first_thread_ns] if first_thread_ns else []
    return started_ns, max(started_ns, min(latest, default=time.monotonic_ns()))


def _end_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
