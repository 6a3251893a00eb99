"""Rules about getting memory: compaction, reclaim, huge pages, malloc and its arenas, the lock of the memory map."""

from __future__ import annotations

from ...model.taxonomy import Cause
from ...units import format_bytes, format_count, format_ns
from ..case import Case
from ..facts import DEVICE_WAITS
from ..rule import Claim, Rule

_DEFRAG = "/sys/kernel/mm/transparent_hugepage/defrag"
_ENABLED = "/sys/kernel/mm/transparent_hugepage/enabled"
_JEMALLOC = "LD_PRELOAD=libjemalloc.so.2"
# mallopt(3): give nothing back, and take nothing from mmap that would be given back when it is freed.
_KEEP = f"keep freed memory: MALLOC_TRIM_THRESHOLD_=-1 MALLOC_MMAP_THRESHOLD_=4294967296; or {_JEMALLOC}"
_FRESH = (Cause.ANON_FAULT, Cause.THP_FAULT, Cause.MMAP_CALL)
_PAGE_BYTES = 4096
# A fault that gives 2 MiB replaces 512 that give 4 KiB; zeroing the memory stays (about half of what they cost).
_HUGE_PAGE_GAIN = 0.5
_USUAL_FAULTS = 0.1
_USUAL_MAP_CALLS = 0.1
# Costlier than this many times the fastest faults of the same run, something is in their way.
_SLOW_FAULT = 4
_LIMIT_COUNTERS = ("cgroup memory max", "cgroup memory high", "cgroup memory failcnt")


def _compaction(case: Case) -> Claim | None:
    took_ns, n_stalls = case.left((Cause.COMPACTION,)), case.facts.grown.get("vmstat compact_stall", 0)
    defrag = case.known("thp", "defrag")
    setting = f", defrag is {defrag}" if defrag else ""
    return Claim(
        took_ns,
        f"the kernel moved pages for {format_ns(took_ns)} to make huge ones "
        f"({format_count(max(n_stalls, case.count(Cause.COMPACTION)))} stalls{setting})",
        f"echo defer+madvise > {_DEFRAG}; or compact before the start: echo 1 > /proc/sys/vm/compact_memory",
    )


def _memory_limit(case: Case) -> Claim | None:
    """Reclaim in a cgroup with a limit, and the reads of pages that were dropped for it and had to come back."""
    limits = [case.known("cgroup", name) for name in ("memory_high_bytes", "memory_max_bytes")]
    known = [limit for limit in limits if limit is not None]
    grown = sum(case.facts.grown.get(name, 0) for name in _LIMIT_COUNTERS)
    if not known or not (grown or case.count(Cause.RECLAIM)):
        return None
    reclaim_ns = case.left((Cause.RECLAIM,))
    again_bytes = _PAGE_BYTES * case.facts.grown.get("vmstat workingset_refault_file", 0)
    again_ns = round(case.left(DEVICE_WAITS) * min(1.0, again_bytes / max(case.size_bytes(*DEVICE_WAITS), 1)))
    again = f" and {format_ns(again_ns)} reading dropped pages again" if again_ns else ""
    return Claim(
        reclaim_ns + again_ns,
        f"the memory limit of {format_bytes(min(known))} was reached: {format_ns(reclaim_ns)} freeing pages{again}",
        "raise the limit (memory.max and memory.high; for a container its memory limit) above the weights and the heap",
    )


def _reclaim(case: Case) -> Claim | None:
    took_ns, available = case.left((Cause.RECLAIM,)), case.known("memory", "available_bytes")
    was = f", {format_bytes(available)} were available before" if isinstance(available, int) else ""
    return Claim(
        took_ns,
        f"the kernel freed memory for {format_ns(took_ns)} before it could give any{was}",
        "free memory on the node, or raise vm.min_free_kbytes so that kswapd frees it ahead of time",
    )


def _no_huge_pages(case: Case) -> Claim | None:
    took_ns, count = case.left((Cause.ANON_FAULT,)), case.count(Cause.ANON_FAULT)
    if case.known("thp", "enabled") != "never":
        return None
    return Claim(
        took_ns - round(_USUAL_FAULTS * case.total_ns),
        f"{format_count(count)} faults of 4 KiB took {format_ns(took_ns)}, and huge pages are off",
        f"echo madvise > {_ENABLED}, and GLIBC_TUNABLES=glibc.malloc.hugetlb=1",
        round(_HUGE_PAGE_GAIN * took_ns),
        "medium",
    )


def _slow_faults(case: Case) -> Claim | None:
    took_ns, count, floor_ns = case.left((Cause.ANON_FAULT,)), case.count(Cause.ANON_FAULT), case.facts.fault_ns
    if not floor_ns or took_ns < _SLOW_FAULT * floor_ns * count:
        return None
    return Claim(
        took_ns - count * floor_ns,
        f"{format_count(count)} faults took {format_ns(took_ns // max(count, 1))} each, the fastest of this run "
        f"{format_ns(floor_ns)}",
        "look for memory pressure or a busy host under this one (/proc/pressure/memory, steal in vmstat 1)",
        confidence="low",
    )


def _slow_malloc(case: Case) -> Claim | None:
    took_ns, count = case.left((Cause.MALLOC_SLOW,)), case.count(Cause.MALLOC_SLOW)
    settings = case.known("allocator", "settings") or []
    preloaded = " (LD_PRELOAD is set)" if "LD_PRELOAD" in settings else ""
    return Claim(
        took_ns,
        f"{format_count(count)} slow calls of the allocator took {format_ns(took_ns)}{preloaded}",
        f"check what LD_PRELOAD and MALLOC_* set; or {_JEMALLOC}",
    )


def _arenas(case: Case) -> Claim | None:
    took_ns = case.left((Cause.ARENA_WAIT,))
    return Claim(
        took_ns,
        f"waited {format_ns(took_ns)} inside malloc for another thread's arena",
        f"unset MALLOC_ARENA_MAX and glibc.malloc.arena_max; or {_JEMALLOC}",
    )


def _map_lock(case: Case) -> Claim | None:
    took_ns, name = case.left((Cause.MMAP_LOCK_WAIT,)), case.largest("functions", (Cause.MMAP_LOCK_WAIT,))
    inside = f" in {name}" if name else ""
    return Claim(
        took_ns,
        f"waited {format_ns(took_ns)}{inside} for the process's memory map, which another thread was changing",
        f"map less at a time: fewer loader threads, or an allocator that returns less memory ({_JEMALLOC})",
        confidence="medium",
    )


def _map_calls(case: Case) -> Claim | None:
    took_ns, count = case.left((Cause.MMAP_CALL,)), case.count(Cause.MMAP_CALL)
    return Claim(
        took_ns - round(_USUAL_MAP_CALLS * case.total_ns),
        f"{format_count(count)} calls to map and unmap memory took {format_ns(took_ns)}",
        _KEEP,
        confidence="medium",
    )


def _fresh_memory(case: Case) -> Claim | None:
    """Requests that get fresh memory of the kernel every time: the first one has to, a later one could use it again."""
    took_ns, count = case.left(_FRESH), case.count(*_FRESH)
    if case.is_load:
        return None
    return Claim(
        took_ns if case.is_steady else min(took_ns, case.usual_ns(_FRESH)),
        f"{format_count(count)} faults and calls for fresh memory took {format_ns(took_ns)}, in every request again",
        _KEEP,
        confidence="medium",
    )


# Asked before the rules of storage: what a limit drops from memory looks cold.
LIMIT = Rule("memory_limit", (Cause.RECLAIM, *DEVICE_WAITS), _memory_limit)

RULES = (
    Rule("thp_compaction", (Cause.COMPACTION,), _compaction),
    Rule("memory_short", (Cause.RECLAIM,), _reclaim),
    Rule("huge_pages_off", (Cause.ANON_FAULT,), _no_huge_pages, is_work=True),
    Rule("slow_faults", (Cause.ANON_FAULT,), _slow_faults, is_work=True),
    Rule("slow_malloc", (Cause.MALLOC_SLOW,), _slow_malloc),
    Rule("arena_contention", (Cause.ARENA_WAIT,), _arenas),
    Rule("map_lock", (Cause.MMAP_LOCK_WAIT,), _map_lock),
    Rule("memory_churn", _FRESH, _fresh_memory, is_work=True),
    Rule("map_churn", (Cause.MMAP_CALL,), _map_calls, is_work=True),
)
