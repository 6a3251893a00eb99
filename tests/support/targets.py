"""Small targets of known behaviour for recordings: each waits behind a gate until it is enrolled."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Ended:
    """What the kernel says about a target that has ended."""

    pid: int
    status: int
    n_faults: int  # since the gate opened
    cpu_ns: int  # since the gate opened, of its first thread
    run_delay_ns: int
    steal_ns: int  # at most what the host took from the whole machine meanwhile; 0 on hardware


class Target:
    """A Python program that has not started yet."""

    def __init__(self, program: str, *arguments: str) -> None:
        gate, self._gate = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._gate)
            os.read(gate, 1)
            # Isolated and without site packages: nothing runs but the program.
            command = [sys.executable, "-I", "-S", "-c", program, *arguments]
            os.execv(command[0], command)
        os.close(gate)
        # Until it sleeps, it takes faults that belong to fork() and to us.
        while Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.001)

    def start(self) -> None:
        """Let it go."""
        self._before = read_schedstat(self.pid)
        self._faults_before = read_faults(self.pid)
        self._steal_before_ns = read_steal_ns()
        os.write(self._gate, b".")
        os.close(self._gate)

    def wait(self) -> Ended:
        """Wait for its end, reading the scheduler's own account before it is reaped."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        cpu_ns, run_delay_ns = read_schedstat(self.pid)
        _, status, usage = os.wait4(self.pid, 0)
        return Ended(
            self.pid,
            status,
            usage.ru_minflt + usage.ru_majflt - self._faults_before,
            cpu_ns - self._before[0],
            run_delay_ns - self._before[1],
            read_steal_ns() - self._steal_before_ns + (TICK_NS if self._steal_before_ns else 0),
        )

    def run(self) -> Ended:
        """Start it and wait for it."""
        self.start()
        return self.wait()


def read_schedstat(tid: int) -> tuple[int, int]:
    """Return (on-CPU ns, run-queue delay ns) of a thread (Documentation/scheduler/sched-stats.rst)."""
    cpu_ns, delay_ns, _ = Path(f"/proc/{tid}/schedstat").read_text().split()
    return int(cpu_ns), int(delay_ns)


def read_faults(pid: int) -> int:
    """Return the faults of a process so far, minor and major (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[7]) + int(fields[9])


def read_steal_ns() -> int:
    """Return the time that the host of this virtual machine kept for itself (proc_stat(5))."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) * TICK_NS
