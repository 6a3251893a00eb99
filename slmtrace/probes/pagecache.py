"""How much of a file the page cache holds: cachestat(2), and mincore(2) where that is missing (before Linux 6.5)."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

PAGE_BYTES = mmap.PAGESIZE
# The same number on x86-64 and arm64 (it is newer than the common table of system calls).
_CACHESTAT = 451
_N_COUNTERS = 5  # cached, dirty, writeback, evicted, recently evicted
_MINCORE_CHUNK_BYTES = 256 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


def page_cache_residency(path: Path) -> tuple[int, int]:
    """Return (resident_bytes, size_bytes) of a file.

    Raises:
        OSError: the file cannot be opened, or its file system answers neither call.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size_bytes = os.fstat(descriptor).st_size
        try:
            n_pages = cachestat_pages(descriptor)
        except OSError as error:
            # EOPNOTSUPP: hugetlbfs. EPERM: a seccomp filter that does not know the call.
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                raise
            n_pages = mincore_pages(descriptor, size_bytes)
    finally:
        os.close(descriptor)
    # The last page may reach past the end of the file.
    return min(n_pages * PAGE_BYTES, size_bytes), size_bytes


def evict_from_page_cache(paths: Iterable[Path]) -> tuple[int, int]:
    """Write these files back and drop their pages; return (resident_bytes, size_bytes) of all of them after it.

    Pages that some process has mapped, or that lie in a memory file system, stay.
    """
    resident_bytes = size_bytes = 0
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)  # dirty pages are not dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        resident, size = page_cache_residency(path)
        resident_bytes += resident
        size_bytes += size
    return resident_bytes, size_bytes


def cachestat_pages(descriptor: int) -> int:
    """Count the cached pages of an open file by cachestat(2)."""
    whole_file = (ctypes.c_uint64 * 2)(0, 0)
    counters = (ctypes.c_uint64 * _N_COUNTERS)()
    if _libc.syscall(ctypes.c_long(_CACHESTAT), ctypes.c_uint(descriptor), whole_file, counters, ctypes.c_uint(0)) < 0:
        raise _last_error()
    return int(counters[0])


def mincore_pages(descriptor: int, size_bytes: int) -> int:
    """Count the cached pages of an open file by mapping it and asking mincore(2); needs write access or ownership."""
    n_pages = 0
    for offset in range(0, size_bytes, _MINCORE_CHUNK_BYTES):
        length = min(_MINCORE_CHUNK_BYTES, size_bytes - offset)
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, offset)
        if address in (None, ctypes.c_void_p(-1).value):
            raise _last_error()
        flags = ctypes.create_string_buffer(-(-length // PAGE_BYTES))
        try:
            if _libc.mincore(address, length, flags) < 0:
                raise _last_error()
        finally:
            _libc.munmap(address, length)
        n_pages += sum(flag & 1 for flag in flags.raw)
    return n_pages


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
