"""The kernel's own accounts of the target, read while it is a zombie: an independent check of what the probes saw."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def read_accounts(pid: int) -> dict[str, Any]:
    """Return what /proc says of a process and its ended threads; what cannot be read is left out."""
    accounts: dict[str, Any] = {}
    for name, read in (("stat", _read_stat), ("io", _read_io), ("schedstat", _read_schedstat)):
        try:
            accounts[name] = read(Path(f"/proc/{pid}/{name}").read_text())
        except (OSError, ValueError, IndexError):
            continue
    return accounts


def _read_stat(text: str) -> dict[str, int]:
    # proc(5): the name may hold spaces and parentheses, so fields are counted from its last ')'. Field 3 comes first.
    fields = text.rpartition(")")[2].split()
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return {
        "minor_faults": int(fields[7]),
        "major_faults": int(fields[9]),
        "user_ns": int(fields[11]) * tick_ns,
        "system_ns": int(fields[12]) * tick_ns,
        "block_io_delay_ns": int(fields[39]) * tick_ns,
    }


def _read_io(text: str) -> dict[str, int]:
    return {key.strip(): int(value) for key, _, value in (line.partition(":") for line in text.splitlines())}


def _read_schedstat(text: str) -> dict[str, int]:
    """Read the main thread's account; those of its other threads are gone with them."""
    on_cpu_ns, run_queue_ns, n_stretches = (int(field) for field in text.split())
    return {"on_cpu_ns": on_cpu_ns, "run_queue_ns": run_queue_ns, "n_stretches": n_stretches}


def read_disk_counts() -> dict[str, dict[str, int]]:
    """Return what each whole disk has completed since boot, by kernel device number ("major:minor")."""
    counts: dict[str, dict[str, int]] = {}
    try:
        lines = Path("/proc/diskstats").read_text().splitlines()
    except OSError:
        return counts
    for line in lines:
        # Kernel documentation, "I/O statistics fields"; a sector is 512 bytes there whatever the disk's is.
        major, minor, name, *values = line.split()
        if Path(f"/sys/block/{name}").is_dir() and len(values) >= 7:
            numbers = [int(value) for value in values]
            counts[f"{major}:{minor}"] = {
                "reads": numbers[0],
                "read_bytes": numbers[2] * 512,
                "writes": numbers[4],
                "written_bytes": numbers[6] * 512,
            }
    return counts


def disk_counts_since(before: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Return what each disk has completed since `before`; idle disks are left out."""
    since = {}
    for device, now in read_disk_counts().items():
        change = {key: value - before.get(device, {}).get(key, 0) for key, value in now.items()}
        if any(change.values()):
            since[device] = change
    return since
