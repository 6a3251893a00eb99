"""The memory part of the state certificate: huge pages, compaction, NUMA, and what the cgroup allows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import procfs

_THP = Path("/sys/kernel/mm/transparent_hugepage")
_VM = Path("/proc/sys/vm")
_NODES = Path("/sys/devices/system/node")
_KHUGEPAGED = ("defrag", "pages_to_scan", "scan_sleep_millisecs", "alloc_sleep_millisecs", "max_ptes_none")
_COMPACTION_COUNTERS = ("compact_stall", "compact_fail", "compact_success", "compact_daemon_wake")
_THP_COUNTERS = (
    "thp_fault_alloc",
    "thp_fault_fallback",
    "thp_collapse_alloc",
    "thp_collapse_alloc_failed",
    "thp_split_page",
)
# Version 1 says "unlimited" by the largest multiple of a page.
_UNLIMITED_BYTES = 1 << 62


def read_memory() -> dict[str, Any]:
    """Return what the kernel says of memory, huge pages, khugepaged, compaction and NUMA nodes."""
    vmstat = procfs.read_table(Path("/proc/vmstat"))
    meminfo = procfs.read_table(Path("/proc/meminfo"))
    return {
        "memory": {
            "total_bytes": meminfo.get("MemTotal", 0) * 1024,
            "available_bytes": meminfo.get("MemAvailable", 0) * 1024,
            "page_cache_bytes": meminfo.get("Cached", 0) * 1024,
            "swap_total_bytes": meminfo.get("SwapTotal", 0) * 1024,
            "swap_free_bytes": meminfo.get("SwapFree", 0) * 1024,
            "swappiness": procfs.read_int(_VM / "swappiness"),
            "overcommit_memory": procfs.read_int(_VM / "overcommit_memory"),
            "zone_reclaim_mode": procfs.read_int(_VM / "zone_reclaim_mode"),
            "min_free_kbytes": procfs.read_int(_VM / "min_free_kbytes"),
        },
        "thp": {
            "enabled": procfs.read_choice(_THP / "enabled"),
            "defrag": procfs.read_choice(_THP / "defrag"),
            "shmem_enabled": procfs.read_choice(_THP / "shmem_enabled"),
            "counters": _pick(vmstat, _THP_COUNTERS),
        },
        "khugepaged": {name: procfs.read_int(_THP / "khugepaged" / name) for name in _KHUGEPAGED},
        "hugepages": _read_hugepages(),
        "compaction": {
            "proactiveness": procfs.read_int(_VM / "compaction_proactiveness"),
            "counters": _pick(vmstat, _COMPACTION_COUNTERS),
        },
    }


def read_numa(pid: int | str) -> dict[str, Any]:
    """Return the NUMA nodes with their free memory, and where the process may run and allocate."""
    status = _read_status(pid)
    return {
        "nodes_usable": _nodes_of(pid),
        "nodes": [_read_node(path) for path in sorted(_NODES.glob("node[0-9]*"))],
        "balancing": procfs.read_int(Path("/proc/sys/kernel/numa_balancing")),
        "cpus_allowed": status.get("Cpus_allowed_list"),
        "nodes_allowed": status.get("Mems_allowed_list"),
        "policy": _read_policy(pid),
    }


def read_cgroup(pid: int | str) -> dict[str, Any]:
    """Return the limits that hold for a process: of its cgroup and of those above it, the least."""
    directories = procfs.find_cgroup_dirs(pid)
    cpu, memory = directories.get("cpu"), directories.get("memory")
    throttled = procfs.read_cpu_stat(cpu)
    return {
        "version": _cgroup_version(),
        "cpu_limit_cpus": _least(_cpu_limit(path) for path in procfs.with_parents(cpu)),
        "memory_max_bytes": _least(_memory_limit(path) for path in procfs.with_parents(memory)),
        "memory_high_bytes": _least(procfs.read_int(path / "memory.high") for path in procfs.with_parents(memory)),
        "memory_current_bytes": _first_int(memory, "memory.current", "memory.usage_in_bytes"),
        "n_throttled": throttled.get("n_throttled"),
        "throttled_us": throttled.get("throttled_us"),
        "memory_events": procfs.read_memory_events(memory),
    }


def _read_hugepages() -> dict[str, dict[str, int | None]]:
    pools = sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*"))
    return {
        pool.name.removeprefix("hugepages-"): {
            "total": procfs.read_int(pool / "nr_hugepages"),
            "free": procfs.read_int(pool / "free_hugepages"),
        }
        for pool in pools
    }


def _nodes_of(pid: int | str) -> list[int]:
    """Return the nodes that the process may run on; none of one that is gone."""
    try:
        cpus = os.sched_getaffinity(0 if pid == "self" else int(pid))
    except OSError:
        return []
    directories = {path for cpu in cpus for path in Path(f"/sys/devices/system/cpu/cpu{cpu}").glob("node[0-9]*")}
    return sorted({int(path.name.removeprefix("node")) for path in directories})


def _read_node(path: Path) -> dict[str, Any]:
    # Each line of a node's meminfo begins with "Node N".
    lines = [line.split() for line in (procfs.read_text(path / "meminfo") or "").splitlines()]
    kib = {fields[2].rstrip(":"): int(fields[3]) for fields in lines if len(fields) > 3}
    return {
        "node": int(path.name.removeprefix("node")),
        "cpus": procfs.read_text(path / "cpulist"),
        "total_bytes": kib.get("MemTotal", 0) * 1024,
        "free_bytes": kib.get("MemFree", 0) * 1024,
    }


def _read_status(pid: int | str) -> dict[str, str]:
    lines = (procfs.read_text(procfs.PROC / str(pid) / "status") or "").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _read_policy(pid: int | str) -> str | None:
    """Return the memory policy of a process's first mapping; one line, since the kernel walks page tables for each."""
    try:
        with (procfs.PROC / str(pid) / "numa_maps").open() as maps:
            fields = maps.readline().split()
    except OSError:
        return None
    return fields[1] if len(fields) > 1 else None


def _cgroup_version() -> int:
    return 2 if (procfs.CGROUP_ROOT / "cgroup.controllers").exists() else 1


def _cpu_limit(directory: Path) -> float | None:
    quota_us, _, period_us = (procfs.read_text(directory / "cpu.max") or "").partition(" ")
    if not quota_us:
        quota_us = procfs.read_text(directory / "cpu.cfs_quota_us") or ""
        period_us = procfs.read_text(directory / "cpu.cfs_period_us") or ""
    if not quota_us.isdigit() or not period_us.isdigit():
        return None  # "max", and -1 in version 1
    return int(quota_us) / int(period_us)


def _memory_limit(directory: Path) -> int | None:
    limit_bytes = _first_int(directory, "memory.max", "memory.limit_in_bytes")
    return limit_bytes if limit_bytes is not None and limit_bytes < _UNLIMITED_BYTES else None


def _first_int(directory: Path | None, *names: str) -> int | None:
    values = (procfs.read_int(directory / name) for name in names) if directory else ()
    return next((value for value in values if value is not None), None)


def _least(limits: Any) -> Any:
    return min((limit for limit in limits if limit is not None), default=None)


def _pick(table: dict[str, int], names: tuple[str, ...]) -> dict[str, int]:
    return {name: table[name] for name in names if name in table}
