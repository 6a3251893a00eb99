"""Read /proc and /sys: small files to numbers, cgroups, and the process tree. What is absent reads as None or empty."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

PROC = Path("/proc")
CGROUP_ROOT = Path("/sys/fs/cgroup")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# What version 1 of cgroups calls a controller, and what version 2 does.
_CONTROLLERS = {"cpu": "cpu", "memory": "memory", "io": "io", "blkio": "io"}
# What version 1 has in files of their own, a line a device, is a setting of io.max in version 2.
_IO_LIMIT_FILES = {"rbps": "blkio.throttle.read_bps_device", "riops": "blkio.throttle.read_iops_device"}


def read_text(path: Path) -> str | None:
    """Return a small file's text without its last newline; None when it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:  # half the time of a text file: these are read all along
            return file.read().decode(errors="replace").rstrip("\n")
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """Return a file that is one integer; None when it is absent or something else ('max')."""
    text = read_text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def read_choice(path: Path) -> str | None:
    """Return the word in brackets of a sysfs choice such as 'always [madvise] never'."""
    text = read_text(path)
    if text is None:
        return None
    return text.partition("[")[2].partition("]")[0] if "[" in text else text


def read_table(path: Path) -> dict[str, int]:
    """Return a file of 'name value' lines (vmstat, cpu.stat, memory.events, meminfo with its kB)."""
    table: dict[str, int] = {}
    for line in (read_text(path) or "").splitlines():
        name, _, value = line.partition(" ")
        try:
            table[name.rstrip(":")] = int(value.removesuffix("kB"))
        except ValueError:
            continue
    return table


def read_pressure(directory: Path = PROC / "pressure") -> dict[str, int]:
    """Return the stall totals in us by 'cpu some', 'io full', ... (Documentation/accounting/psi.rst)."""
    totals: dict[str, int] = {}
    for resource in ("cpu", "io", "memory"):
        for line in (read_text(directory / resource) or "").splitlines():
            kind, _, rest = line.partition(" ")
            total = rest.rpartition("total=")[2]
            if total.isdigit():
                totals[f"{resource} {kind}"] = int(total)
    return totals


def busy_us() -> int | None:
    """Return how long the CPUs of this machine were busy since its start, all together, in us (proc_stat(5)).

    None where the file is a container's own count, in which what others run is left out: lxcfs mounts it over /proc.
    """
    path = PROC / "stat"
    text = read_text(path)
    if text is None or path.stat().st_dev != PROC.stat().st_dev:
        return None
    user, nice, system, _idle, _iowait, irq, softirq = map(int, text.split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) * 1_000_000 // TICKS_PER_S


def find_cgroup_dirs(pid: int | str = "self") -> dict[str, Path]:
    """Return the cgroup directory of a process by controller: 'cpu', 'memory' and 'io', of version 2 or 1.

    In a container whose own cgroup is mounted at the root, the path of /proc/PID/cgroup does not exist there: the
    root is then the nearest that is visible.
    """
    found: dict[str, Path] = {}
    for line in (read_text(PROC / str(pid) / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else ("cpu", "memory", "io"):
            if controller not in _CONTROLLERS:
                continue
            mount = CGROUP_ROOT / controller if controllers else CGROUP_ROOT
            candidates = (mount / path.lstrip("/"), mount)
            exists = next((one for one in candidates if any(one.glob(f"{controller}.*"))), None)
            if exists is not None:
                found.setdefault(_CONTROLLERS[controller], exists)
    return found


@lru_cache(maxsize=16)
def with_parents(directory: Path | None) -> tuple[Path, ...]:
    """Return a cgroup's directory and those above it, as far as they are mounted: what limits them limits it."""
    if directory is None:
        return ()
    return tuple(path for path in (directory, *directory.parents) if CGROUP_ROOT in (path, *path.parents))


def read_cpu_stat(directory: Path | None) -> dict[str, int]:
    """Return how often and for how long, in us, a cgroup and those above it were throttled; empty if nothing says."""
    totals: dict[str, int] = {}
    for path in with_parents(directory):
        stat = read_table(path / "cpu.stat")
        if "nr_throttled" in stat:
            # Version 1 counts throttled_time in ns.
            throttled_us = stat.get("throttled_usec", stat.get("throttled_time", 0) // 1000)
            totals["n_throttled"] = totals.get("n_throttled", 0) + stat["nr_throttled"]
            totals["throttled_us"] = totals.get("throttled_us", 0) + throttled_us
    return totals


def read_memory_events(directory: Path | None) -> dict[str, int]:
    """Return how often a memory cgroup met its limits: memory.events of version 2, 'failcnt' of version 1."""
    if directory is None:
        return {}
    failures = read_int(directory / "memory.failcnt")
    return read_table(directory / "memory.events") or ({} if failures is None else {"failcnt": failures})


def read_io_limits(directory: Path | None, device: str) -> dict[str, int]:
    """Return the least limits that a cgroup and those above it set on a block device ('254:0'), by name as in io.max.

    'rbps' is of bytes read a second, 'riops' of requests; what is not limited is absent.
    """
    limits: dict[str, int] = {}
    for path in with_parents(directory):
        lines = (read_text(path / "io.max") or "").splitlines()
        for name, file in _IO_LIMIT_FILES.items():
            lines += (read_text(path / file) or "").replace(" ", f" {name}=").splitlines()
        for settings in (line.split() for line in lines if line.startswith(f"{device} ")):
            for name, _, value in (setting.partition("=") for setting in settings[1:]):
                if value.isdigit():  # and not 'max'
                    limits[name] = min(limits.get(name, int(value)), int(value))
    return limits


def find_tree(root_pid: int) -> list[int]:
    """Return a process and its descendants."""
    if (PROC / str(root_pid) / "task" / str(root_pid) / "children").exists():
        return _tree_by_children(root_pid)
    return _tree_by_scan(root_pid)


def rss_bytes(pids: Iterable[int]) -> int:
    """Return the resident memory of processes together (shared pages count once each process)."""
    total = 0
    for pid in pids:
        fields = (read_text(PROC / str(pid) / "statm") or "").split()
        total += int(fields[1]) * PAGE_BYTES if len(fields) > 1 else 0
    return total


def _tree_by_children(root_pid: int) -> list[int]:
    tree = [root_pid]
    for pid in tree:  # grows while it is walked
        for task in _list_dir(PROC / str(pid) / "task"):
            tree += [int(child) for child in (read_text(task / "children") or "").split()]
    return tree


def _tree_by_scan(root_pid: int) -> list[int]:
    """Walk every process's parent: for kernels without CONFIG_PROC_CHILDREN."""
    children: dict[int, list[int]] = {}
    for directory in _list_dir(PROC):
        stat = read_text(directory / "stat") if directory.name.isdigit() else None
        if stat:
            children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(directory.name))
    tree = [root_pid]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def _list_dir(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []
