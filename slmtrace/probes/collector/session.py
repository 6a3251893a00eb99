"""One recording: bring the programs up, follow processes on command, drain, and account for everything at the end."""

from __future__ import annotations

import mmap
import platform
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from ...capture.layout import RING, LostCause, RingType
from ...capture.rawlog import encode_header
from ...capture.syscalls import syscall_interests, syscall_names
from .btf import read_btf
from .driver import find_driver
from .files import FileFinder, open_gpu_devices
from .groups import argument_offsets, common_macros, plan_groups
from .log import open_log
from .maps import Map
from .privileges import drop_capabilities
from .programs import MAX_FILES, MAX_PROGRAMS, MAX_THREADS, Programs
from .python import Runtime, RuntimeFinder
from .request import belongs_to
from .ring import Ring
from .sites import ALLOCATORS, find_sites, mapped_libraries
from .structs import FileKey
from .threads import Threads
from .timing import Timing
from .tracefs import find_tracefs

DRAIN_EVERY_S = 0.1  # each time takes a CPU from the target
HURRIED_DRAIN_S = 0.005  # at the most often, where the ring fills quickly
DRAINED_FRACTION = 1 / 8  # of the ring, by then
ALIVE_EVERY_S = 0.2
# Flags of a system call's rule in ebpf/syscalls.bpf.c.
_ALWAYS, _SIZED, _TIMEOUT, _WRITES, _ARGUMENT = 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12
# What a system call does with its second argument, in ebpf/http.bpf.c.
_RECEIVES, _SENDS, _VECTOR, _MESSAGE = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_HTTP_CALLS = {
    **dict.fromkeys(("read", "recvfrom"), _RECEIVES),
    **dict.fromkeys(("write", "sendto"), _SENDS),
    "readv": _RECEIVES | _VECTOR,
    "writev": _SENDS | _VECTOR,
    "recvmsg": _RECEIVES | _MESSAGE,
    "sendmsg": _SENDS | _MESSAGE,
}
_ALLOCATOR_FUNCTIONS = ("malloc", "calloc", "realloc", "free")
_COUNTER_SEEN, _COUNTER_RING_FULL, _COUNTER_THREAD_MAP_FULL = 0, 1, 2
_MAX_REASON_CHARS = 200


class Session:
    """Everything that a recording holds.

    Raises:
        OSError, RuntimeError: it cannot begin; the message says why.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        page_bytes = mmap.PAGESIZE
        ring_bytes = 1 << max(page_bytes, int(config["ring_bytes"])).bit_length() - 1
        macros = {
            **common_macros(page_bytes),
            "RING_PAGES": ring_bytes // page_bytes,
            "MAX_THREADS": MAX_THREADS,
            "MAX_FILES": MAX_FILES,
            "MAX_PROGRAMS": MAX_PROGRAMS,
            "THRESHOLD_NS": int(config["threshold_ns"]),
        }
        self._is_malloc_traced = config["malloc"] == "full"
        is_for_another = bool(config.get("is_for_another"))
        driver = find_driver(config.get("cuda_libraries", []))
        extras = {"http": config.get("http"), "malloc": self._is_malloc_traced, "cuda": driver.functions}
        wanted = tuple(name for name, is_wanted in extras.items() if is_wanted)
        avoid = tuple(config.get("avoid", ()))
        groups = plan_groups(read_btf(), _tracefs_or_nothing(), wanted, avoid, is_for_another)
        self._timing = Timing()
        self.programs = Programs(Path(config["source_dir"]), groups, macros)
        if self.programs.statuses["tree"].status == "unavailable":
            raise RuntimeError(self.programs.statuses["tree"].reason)
        if "syscall_rules" in self.programs:
            _write_syscall_rules(self.programs["syscall_rules"])
        if "http_calls" in self.programs:
            _write_http_calls(self.programs["http_calls"])
        if config.get("cuda_libraries"):
            self.programs.attach_driver(driver)
        self._log = open_log(config["log"], self._header(config, ring_bytes), config["uid"], config["gid"])
        for number, function in enumerate(driver.functions):
            self._log.note_function(number, function.name)
        self.capabilities = drop_capabilities(with_uprobes=self._is_malloc_traced)
        self._ring = Ring(self.programs["ring"].descriptor, ring_bytes)
        self._ring_bytes = ring_bytes
        may_follow = partial(belongs_to, uid=config["uid"]) if is_for_another else lambda pid: True
        self._threads = Threads(self.programs["threads"], self._log, may_follow)
        self._finder = FileFinder()
        self._runtimes = RuntimeFinder(self._note_runtime)
        self._probed: dict[str, str] = {}  # allocators by path, with what went wrong
        self._gpu_processes: set[int] = set()  # that may use the driver
        self._has_driver = bool(driver.functions)
        self._unresolved: list[tuple[int, int, int]] = []
        self._told_lost: dict[LostCause, int] = {}
        self._next_alive_ns = 0
        self._drained_ns = time.monotonic_ns()
        self._start_cpu_ns = time.process_time_ns()

    def _header(self, config: dict[str, Any], ring_bytes: int) -> bytes:
        return encode_header(
            "ebpf",
            RING,
            machine=platform.machine(),
            kernel=platform.release(),
            start_ns=time.monotonic_ns(),
            threshold_ns=int(config["threshold_ns"]),
            ring_bytes=ring_bytes,
            groups=self.statuses(),
        )

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Return how each group fares, as JSON."""
        return {
            name: {"status": group.status, "reason": group.reason[:_MAX_REASON_CHARS], "attached": list(group.attached)}
            for name, group in self.programs.statuses.items()
        }

    def enroll(self, pid: int) -> int:
        """Follow a process and all that descends from it; return the number of threads."""
        if self._is_malloc_traced:
            for path in mapped_libraries(pid, ALLOCATORS):
                self.probe_allocator(path)
        self._timing.begin(time.monotonic_ns())
        followed = self._threads.enroll(pid)
        processes = set(followed.values())
        for process in processes:
            self._runtimes.add(process)
        self._runtimes.work()
        if self._has_driver:
            self._gpu_processes |= processes
            self._name_devices()
        return len(followed)

    def probe_allocator(self, path: str) -> str:
        """Probe the functions of one allocator; return what went wrong.

        Raises:
            ValueError: allocators are not to be probed.
        """
        if not self._is_malloc_traced:
            raise ValueError("allocators are not probed")
        if path in self._probed:
            return self._probed[path]
        failures = []
        try:
            sites = find_sites(path, _ALLOCATOR_FUNCTIONS.__contains__)
        except (OSError, ValueError) as error:
            sites, failures = {}, [f"{path}: {error}"]
        for function in _ALLOCATOR_FUNCTIONS:
            site = sites.get(function)
            if site is None:
                continue
            entry = f"on_{function}"
            failure = self.programs.attach_functions(path, {0: site.offset}, entry, f"{entry}_return")
            if failure:
                failures.append(failure)
            elif site.is_slow:
                failures.append(f"{function} in {path} begins so that each call is single-stepped: it looks slower")
        self._probed[path] = "; ".join(failures)
        return self._probed[path]

    def work(self) -> float:
        """Drain, name new files, and give a sign of life when it is due; return for how long, in s, to rest."""
        now_ns = time.monotonic_ns()
        n_bytes, is_empty = self._ring.drain(self._log.append)
        self._timing.end_if_due(now_ns, self.programs.self_time)
        self._name_files()
        self._look_at_programs()
        if is_empty and now_ns >= self._next_alive_ns:
            self._next_alive_ns = now_ns + round(ALIVE_EVERY_S * 1e9)
            self._give_sign_of_life(now_ns)
        elapsed_s, self._drained_ns = (now_ns - self._drained_ns) / 1e9, now_ns
        wait_s = DRAINED_FRACTION * self._ring_bytes * elapsed_s / max(1, n_bytes)
        return min(max(wait_s, HURRIED_DRAIN_S), DRAIN_EVERY_S)

    def _name_files(self) -> None:
        queue = self.programs["new_files"]
        self._finder.forget_processes()
        while (value := queue.pop()) is not None:
            key = FileKey.from_buffer_copy(value)
            self._name_file((key.device, key.inode, key.tgid))

    def _name_devices(self) -> None:
        for process in sorted(self._gpu_processes):
            for descriptor, path in open_gpu_devices(process).items():
                self._log.note_descriptor(process, descriptor, path)

    def _look_at_programs(self) -> None:
        queue = self.programs["new_programs"]
        while (value := queue.pop()) is not None:
            self._runtimes.add(int.from_bytes(value, sys.byteorder))
        self._runtimes.work()

    def _note_runtime(self, pid: int, runtime: Runtime) -> None:
        self._log.note(RingType.PYTHON, tid=pid, a=runtime.address, b=runtime.size_bytes)

    def _name_file(self, touched: tuple[int, int, int]) -> None:
        device, inode, pid = touched
        found = self._finder.find((device, inode), pid)
        if found is None:
            self._unresolved.append(touched)
        else:
            self._log.note_file(found.path, inode, device, found.size_bytes)

    def _give_sign_of_life(self, drained_until_ns: int) -> None:
        for cause, count in self._lost().items():
            new = count - self._told_lost.get(cause, 0)
            if new > 0:
                self._log.note_lost(cause, new)
                self._told_lost[cause] = count
        self._log.note_lost_total(sum(self._told_lost.values()))
        self._log.note(RingType.ALIVE, ts_ns=drained_until_ns, a=self._seen())

    def _seen(self) -> int:
        return self.programs["counters"].sum(_COUNTER_SEEN) + self._log.own

    def _lost(self) -> dict[LostCause, int]:
        counters = self.programs["counters"]
        return {
            LostCause.RING_FULL: counters.sum(_COUNTER_RING_FULL),
            LostCause.THREAD_MAP_FULL: counters.sum(_COUNTER_THREAD_MAP_FULL),
            LostCause.LOG_WRITE: self._log.lost,
        }

    def finish(self) -> dict[str, Any]:
        """Silence the programs, write what is still to be written, and return the books."""
        end_ns = time.monotonic_ns()
        self._threads.finish()
        self.programs.silence()
        while not self._ring.drain(self._log.append).is_empty:
            time.sleep(0.001)
        self._name_files()
        self._name_devices()
        unresolved, self._unresolved = self._unresolved, []
        for touched in unresolved:
            self._name_file(touched)
        self._give_sign_of_life(end_ns)
        self._timing.end(self.programs.self_time)
        return {
            "seen": self._seen(),
            "written": self._log.written,
            "lost": {cause.name.lower(): count for cause, count in self._lost().items() if count},
            "ns_per_run": self._timing.ns_per_run,
            "bpf_missed_runs": sum(missed for _, _, missed in self.programs.self_time().values()),
            "start_cpu_ns": self._start_cpu_ns,
            "cpu_ns": time.process_time_ns() - self._start_cpu_ns,
            "ring_peak_fraction": round(self._ring.peak_bytes / self._ring_bytes, 4),
            "unnamed_files": len(self._unresolved),
            "allocators": self._probed,
        }


def _tracefs_or_nothing() -> Path:
    try:
        return find_tracefs()
    except OSError:
        return Path("/nonexistent")


def _write_syscall_rules(table: Map) -> None:
    offsets = argument_offsets()
    interests = syscall_interests(platform.machine())
    for number in range(table.max_entries):
        interest = interests.get(number)
        rule = 6  # FoldClass.OTHER_SYSCALL
        if interest is not None:
            rule = int(interest.fold_class)
            rule |= _ALWAYS * interest.is_always_sent | _SIZED * interest.is_size
            rule |= _TIMEOUT * interest.is_timeout | _WRITES * interest.writes
            if interest.argument >= 0:
                rule |= _ARGUMENT | offsets[interest.argument] << 16
        table.set(number, rule.to_bytes(4, sys.byteorder))


def _write_http_calls(table: Map) -> None:
    for number, name in syscall_names(platform.machine()).items():
        if name in _HTTP_CALLS:
            table.set(number, _HTTP_CALLS[name].to_bytes(4, sys.byteorder))
