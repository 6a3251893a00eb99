"""Keep only the capabilities that running needs, once everything is attached (capabilities(7))."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP = 38, 24
# To open files by inode, to read other users' maps and descriptors, to attach tracepoints, to read maps of the kernel.
KEPT = {"CAP_DAC_READ_SEARCH": 2, "CAP_SYS_PTRACE": 19, "CAP_PERFMON": 38, "CAP_BPF": 39}
ADMIN = {"CAP_SYS_ADMIN": 21}


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def drop_capabilities(with_uprobes: bool) -> list[str]:
    """Give up all capabilities but KEPT, for good; return the names of those that are left.

    Uprobes are attached when the target's allocator is known, and the kernel asks CAP_SYS_ADMIN for that
    (perf_uprobe_event_init() in kernel/events/core.c).

    Raises:
        OSError: the kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    # Before Linux 5.8, CAP_BPF and CAP_PERFMON were part of CAP_SYS_ADMIN.
    is_admin_needed = with_uprobes or last < KEPT["CAP_BPF"]
    kept = {**KEPT, **ADMIN} if is_admin_needed else KEPT
    wanted = {number for number in kept.values() if number <= last}
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
    return [name for name, number in kept.items() if number <= last and data[number // 32].permitted >> number % 32 & 1]
