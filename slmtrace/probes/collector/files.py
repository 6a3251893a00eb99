"""From (device, inode) to path: by opening the inode, else through the process that touched the file."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FileId = tuple[int, int]  # device as the kernel numbers it, inode

_FILEID_INO32_GEN = 1  # include/linux/exportfs.h
_O_PATH = 0x200000
_DELETED = " (deleted)"
_GPU_DEVICES = "/dev/nvidia"  # nvidiactl, nvidia0, nvidia-uvm


class Found(NamedTuple):
    """A file that has a name."""

    path: str
    size_bytes: int


class _Handle(ctypes.Structure):
    """struct file_handle with an inode number and its generation, where 0 stands for any (fs/ext4, fs/xfs export)."""

    _fields_ = [
        ("handle_bytes", ctypes.c_uint32),
        ("handle_type", ctypes.c_int),
        ("inode", ctypes.c_uint32),
        ("generation", ctypes.c_uint32),
    ]


def kernel_device(st_dev: int) -> int:
    """Return a device number as the kernel's tracepoints have it (MKDEV: 20 bits of minor)."""
    return os.major(st_dev) << 20 | os.minor(st_dev)


class FileFinder:
    """Find the paths of files by device and inode."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._mounts: dict[int, int] = {}  # an open directory by device
        self._files_by_pid: dict[int, dict[FileId, str]] = {}

    def forget_processes(self) -> None:
        """Look at processes anew from here on; until then, each is looked at once."""
        self._files_by_pid.clear()

    def find(self, file_id: FileId, pid: int) -> Found | None:
        """Find a file that `pid` touched: by its inode, else among the process's mappings and open files.

        The inode comes first because it costs microseconds; reading the mappings of a process costs milliseconds, and
        an import touches thousands of files.
        """
        found = self._by_inode(file_id)
        if found is not None:
            return found
        if pid not in self._files_by_pid:
            self._files_by_pid[pid] = {**_mapped_files(pid), **_open_files(pid)}
        path = self._files_by_pid[pid].get(file_id)
        return None if path is None else Found(path, _size(Path(f"/proc/{pid}/root{path}")))

    def _by_inode(self, file_id: FileId) -> Found | None:
        """Open the inode: names a file that was closed at once, while the kernel still remembers its name."""
        device, inode = file_id
        mount = self._mount_of(device)
        if mount < 0 or inode >> 32:
            return None
        handle = _Handle(8, _FILEID_INO32_GEN, inode, 0)
        descriptor = self._libc.open_by_handle_at(mount, ctypes.byref(handle), _O_PATH | os.O_CLOEXEC)
        if descriptor < 0:
            return None
        try:
            status = os.fstat(descriptor)
            path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 - thousands of times, and faster
        except OSError:
            return None
        finally:
            os.close(descriptor)
        is_it = (kernel_device(status.st_dev), status.st_ino) == file_id and path.startswith("/")
        return Found(path, status.st_size) if is_it and len(path) > 1 else None

    def _mount_of(self, device: int) -> int:
        if device not in self._mounts:
            self._mounts[device] = _open_mount(device)
        return self._mounts[device]


def _open_mount(device: int) -> int:
    """Open a directory on a device, preferring a mount of the whole file system; -1 if none is mounted here."""
    wanted = f"{device >> 20}:{device & 0xFFFFF}"
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for fields in sorted((fields for fields in lines if fields[2] == wanted), key=lambda fields: len(fields[3])):
        try:
            return os.open(fields[4].encode().decode("unicode_escape"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
    return -1


def open_gpu_devices(pid: int) -> dict[int, str]:
    """Return the paths of the GPU devices that a process has open, by descriptor."""
    found: dict[int, str] = {}
    try:
        paths = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return found
    for path in paths:
        try:
            target = str(path.readlink())
        except OSError:  # closed meanwhile
            continue
        if target.startswith(_GPU_DEVICES):
            found[int(path.name)] = target
    return found


def _mapped_files(pid: int) -> dict[FileId, str]:
    found: dict[FileId, str] = {}
    try:
        text = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return found
    for line in text.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6 and fields[4] != b"0":
            major, minor = fields[3].split(b":")
            path = os.fsdecode(fields[5])
            if path.endswith(_DELETED):
                path = path[: -len(_DELETED)]
            found[(int(major, 16) << 20 | int(minor, 16), int(fields[4]))] = path
    return found


def _open_files(pid: int) -> dict[FileId, str]:
    return {file_id: path for file_id, path in _descriptors(pid) if path.startswith("/")}


def _descriptors(pid: int) -> Iterator[tuple[FileId, str]]:
    try:
        paths = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return
    for path in paths:
        try:
            status = path.stat()
            yield (kernel_device(status.st_dev), status.st_ino), str(path.readlink())
        except OSError:  # closed meanwhile
            continue


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
