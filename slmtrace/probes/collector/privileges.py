"""Keep only the capabilities that running needs, once everything is attached (capabilities(7))."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
# To read other users' maps and descriptors, to open files by inode, to read maps of the kernel, to attach uprobes.
KEPT = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_PTRACE": 19, "CAP_PERFMON": 38, "CAP_BPF": 39}
_SYS_ADMIN = 21


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def drop_capabilities() -> list[str]:
    """Give up all capabilities but KEPT, for good; return the names of those that are left.

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    # Before Linux 5.8, CAP_BPF and CAP_PERFMON were part of CAP_SYS_ADMIN.
    wanted = set(KEPT.values()) if last >= KEPT["CAP_BPF"] else {2, 19, _SYS_ADMIN}
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in range(last + 1):
        if number not in wanted:
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    header = _Header(_VERSION_3, 0)
    data = (_Data * 2)()
    if libc.capget(ctypes.byref(header), data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "capget")
    for word in range(2):
        mask = sum(1 << number % 32 for number in wanted if number // 32 == word)
        data[word].permitted &= mask
        data[word].effective = data[word].permitted
        data[word].inheritable = 0
    if libc.capset(ctypes.byref(header), data) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "capset")
    return [name for name, number in KEPT.items() if data[number // 32].permitted >> number % 32 & 1]
