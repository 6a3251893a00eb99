"""The storage part of the state certificate: the file systems and block devices that the weight files lie on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from . import procfs

_MEMORY_TYPES = frozenset({"tmpfs", "ramfs", "hugetlbfs"})
_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "beegfs", "gpfs", "9p", "virtiofs", "glusterfs", "afs", "wekafs"}
)


class _Mount(NamedTuple):
    device: str  # major:minor, as stat sees it
    point: Path
    type: str
    source: str


def read_storage(files: Iterable[Path], pid: int | str) -> list[dict[str, Any]]:
    """Describe each file system that holds some of the files, and its device with the limits on reads by a process.

    No paths, hosts or serial numbers are in it.
    """
    mounts, cgroup = _read_mounts(), procfs.find_cgroup_dirs(pid).get("io")
    described: dict[Path, dict[str, Any]] = {}
    for path in files:
        mount = _find_mount(path.resolve(), mounts)
        if mount is not None:
            entry = described.setdefault(mount.point, {"n_files": 0, **_describe(mount, cgroup)})
            entry["n_files"] += 1
    return list(described.values())


def _describe(mount: _Mount, cgroup: Path | None) -> dict[str, Any]:
    is_fuse = mount.type.startswith("fuse")
    return {
        "filesystem": mount.type,
        "is_network": mount.type in _NETWORK_TYPES or is_fuse,
        "is_memory": mount.type in _MEMORY_TYPES,
        "device": _describe_device(mount, cgroup),
    }


def _describe_device(mount: _Mount, cgroup: Path | None) -> dict[str, Any] | None:
    directory = Path("/sys/dev/block") / mount.device
    # btrfs and overlayfs give files a device number of their own; the mount's source is then the device, if any is.
    if not directory.exists() and mount.source.startswith("/dev/"):
        directory = Path("/sys/class/block") / Path(mount.source).resolve().name
    if not directory.exists():
        return None
    directory = directory.resolve()
    disk = directory.parent if (directory / "partition").exists() else directory
    queue = disk / "queue"
    # Limits are set on whole disks.
    limits = procfs.read_io_limits(cgroup, procfs.read_text(disk / "dev") or "")
    return {
        "name": directory.name,
        "model": procfs.read_text(disk / "device" / "model"),
        "rotational": procfs.read_int(queue / "rotational"),
        "scheduler": procfs.read_choice(queue / "scheduler"),
        "read_ahead_kb": procfs.read_int(queue / "read_ahead_kb"),
        "nr_requests": procfs.read_int(queue / "nr_requests"),
        "max_sectors_kb": procfs.read_int(queue / "max_sectors_kb"),
        "read_limit_bytes_per_second": limits.get("rbps"),
        "read_limit_requests_per_second": limits.get("riops"),
        "lies_on": sorted(slave.name for slave in (disk / "slaves").glob("*")),
    }


def _read_mounts() -> list[_Mount]:
    """Read the mounts of this process (proc(5), "mountinfo": the type and source follow a lone hyphen)."""
    mounts = []
    for line in (procfs.read_text(Path("/proc/self/mountinfo")) or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, tail = before.split(), after.split()
        if len(fields) > 4 and len(tail) > 1:
            mounts.append(_Mount(fields[2], Path(_unescape(fields[4])), tail[0], _unescape(tail[1])))
    return mounts


def _find_mount(path: Path, mounts: list[_Mount]) -> _Mount | None:
    """Return the mount that a path lies in: the longest point, and of equal ones the last, which hides the others."""
    holding = [mount for mount in mounts if mount.point == path or mount.point in path.parents]
    return max(reversed(holding), key=lambda mount: len(mount.point.parts), default=None)


def _unescape(text: str) -> str:
    return os.fsdecode(text.encode("utf-8", "surrogateescape").decode("unicode_escape").encode("latin-1"))
