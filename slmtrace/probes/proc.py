"""The /proc probe: pressure, memory management and cgroup counters of the node, resident memory of the target."""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ..capture.directory import Capture
from . import procfs
from .base import Availability, Probe, ProbeResult, RecordOptions
from .slotlog import SlotLog

VMSTAT_NAMES = (
    "pgfault",
    "pgmajfault",
    "thp_fault_alloc",
    "thp_fault_fallback",
    "compact_stall",
    "compact_success",
    "pgscan_direct",
    "pgsteal_direct",
    "pswpin",
    "pswpout",
    "workingset_refault_file",
)
VMSTAT_SPLIT_NAMES = ("allocstall",)  # the kernel splits these by zone: the sum says enough
# Half the time that it takes to read the whole table, ten times a second.
_VMSTAT = re.compile(rf"^(?:({'|'.join(VMSTAT_NAMES)})|({'|'.join(VMSTAT_SPLIT_NAMES)})_\w+) (\d+)$", re.MULTILINE)
SLOW_INTERVAL_NS = 1_000_000_000  # the process tree and CPU frequencies cost more to read than counters
MAX_FREQUENCY_CPUS = 16

Values = Iterator[tuple[str, int]]


class ProcProbe(Probe):
    """Reads counters from the recorder's own loop; a value is written when it changed."""

    name = "proc"

    def __init__(self) -> None:
        self._log: SlotLog | None = None
        self._interval_ns = 10**9 // RecordOptions().counter_hz
        self._next_ns = 0
        self._next_slow_ns = 0
        self._pid = 0
        self._tree: list[int] = []
        self._cgroups: dict[str, Path] = {}
        self._last: dict[str, int] = {}
        self._cpu_ns = 0
        self._n_reads = 0

    def check(self) -> Availability:
        """Read every file once, and say which are not there."""
        absent = self._absent()
        if "vmstat" in absent:
            return Availability("unavailable", "/proc/vmstat cannot be read", "mount -t proc proc /proc")
        if "pressure" in absent:
            remedy = (
                "boot with psi=1" if Path("/proc/pressure").exists() else "a kernel with CONFIG_PSI, booted with psi=1"
            )
            return Availability("partial", "no pressure stall information", remedy, {"absent": absent})
        return Availability("ok", detail={"absent": absent})

    def start(self, capture: Capture, options: RecordOptions) -> None:
        """Open the log."""
        self._interval_ns = 10**9 // options.counter_hz
        self._log = SlotLog(capture.raw / "proc.bin", "proc", counter_hz=options.counter_hz)

    def enroll(self, pid: int) -> None:
        """Follow the memory of this process and of what it starts, and the cgroup that it is in."""
        self._pid = pid
        self._tree = [pid]
        self._cgroups = procfs.find_cgroup_dirs(pid)

    def poll(self) -> None:
        """Write what changed, when it is time."""
        if time.monotonic_ns() >= self._next_ns:
            self._read()

    def stop(self) -> ProbeResult:
        """Write the last values and close the log."""
        if self._log is None:
            return ProbeResult("unavailable", "never started")
        self._read()
        self._log.close()
        return ProbeResult(
            "ok",
            seen=self._log.written + self._log.lost,
            written=self._log.written,
            lost={"log_write": self._log.lost} if self._log.lost else {},
            overhead={"cpu_ns": self._cpu_ns, "reads": self._n_reads, "method": "thread CPU time inside poll"},
            facts={"absent": self._absent()},
        )

    def _read(self) -> None:
        assert self._log is not None
        started_ns = time.thread_time_ns()
        now_ns = time.monotonic_ns()
        self._next_ns = now_ns + self._interval_ns
        is_slow_due = now_ns >= self._next_slow_ns
        if is_slow_due:
            self._next_slow_ns = now_ns + SLOW_INTERVAL_NS
            self._tree = procfs.find_tree(self._pid) if self._pid else []
        for name, value in self._values(is_slow_due):
            if self._last.get(name) != value:
                self._last[name] = value
                self._log.counter(name, now_ns, value)
        self._n_reads += 1
        self._cpu_ns += time.thread_time_ns() - started_ns

    def _values(self, is_slow_due: bool) -> Values:
        for name, total_us in procfs.read_pressure().items():
            yield f"psi {name} us", total_us
        busy_us = procfs.busy_us()
        if busy_us is not None:
            yield "cpu busy us", busy_us
        yield from _vmstat_values()
        yield from _cgroup_values(self._cgroups)
        if self._tree:
            yield "rss bytes", procfs.rss_bytes(self._tree)
        if is_slow_due:
            yield from _frequency_values()

    def _absent(self) -> list[str]:
        groups = {
            "pressure": procfs.read_pressure(),
            "vmstat": dict(_vmstat_values()),
            "cgroup": dict(_cgroup_values(self._cgroups or procfs.find_cgroup_dirs())),
            "cpu frequency": dict(_frequency_values()),
        }
        return [name for name, values in groups.items() if not values]


def _vmstat_values() -> Values:
    totals: Counter[str] = Counter()
    for name, split_name, value in _VMSTAT.findall(procfs.read_text(procfs.PROC / "vmstat") or ""):
        totals[name or split_name] += int(value)
    for name, total in totals.items():
        yield f"vmstat {name} count", total


def _cgroup_values(directories: dict[str, Path]) -> Values:
    throttled = procfs.read_cpu_stat(directories.get("cpu"))
    if throttled:
        yield "cgroup nr_throttled count", throttled["n_throttled"]
        yield "cgroup throttled us", throttled["throttled_us"]
    for name, value in procfs.read_memory_events(directories.get("memory")).items():
        yield f"cgroup memory {name} count", value


def _frequency_values() -> Values:
    for cpu in sorted(os.sched_getaffinity(0))[:MAX_FREQUENCY_CPUS]:
        frequency_khz = procfs.read_int(Path(f"/sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq"))
        if frequency_khz is not None:
            yield f"cpu{cpu} frequency kHz", frequency_khz
