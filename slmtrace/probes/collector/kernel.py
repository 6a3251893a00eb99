"""Direct calls of bpf(2), for what needs no compiler: a program that does nothing, and run-time statistics."""

from __future__ import annotations

import ctypes
import os
import platform

_BPF_NUMBERS = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _RAW_TRACEPOINT_OPEN, _ENABLE_STATS = 5, 17, 32
_PROG_TYPE_RAW_TRACEPOINT = 17
# r0 = 0; exit
_DO_NOTHING = bytes([0xB7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])


class _LoadAttributes(ctypes.Structure):
    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * 104),
    ]


class _RawTracepointAttributes(ctypes.Structure):
    _fields_ = [("name", ctypes.c_uint64), ("prog_fd", ctypes.c_uint32), ("unused", ctypes.c_uint32)]


def try_raw_tracepoint(name: str) -> None:
    """Load a program of two instructions, attach it to a raw tracepoint and take it away again.

    Raises:
        OSError: the kernel refused.
    """
    instructions = ctypes.create_string_buffer(_DO_NOTHING, len(_DO_NOTHING))
    licence = ctypes.create_string_buffer(b"GPL")
    load = _LoadAttributes(_PROG_TYPE_RAW_TRACEPOINT, 2, ctypes.addressof(instructions), ctypes.addressof(licence))
    program = _bpf(_PROG_LOAD, load)
    try:
        target = ctypes.create_string_buffer(name.encode())
        os.close(_bpf(_RAW_TRACEPOINT_OPEN, _RawTracepointAttributes(ctypes.addressof(target), program, 0)))
    finally:
        os.close(program)


def enable_statistics() -> int:
    """Let the kernel account the run time of BPF programs while the returned descriptor is open; -1 if it will not."""
    try:
        return _bpf(_ENABLE_STATS, ctypes.c_uint32(0))
    except OSError:
        return -1


def _bpf(command: int, attributes: ctypes.Structure | ctypes.c_uint32) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_long(_BPF_NUMBERS.get(platform.machine(), _BPF_NUMBERS["x86_64"]))
    libc.syscall.restype = ctypes.c_long
    descriptor = libc.syscall(number, command, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "bpf")
    return int(descriptor)
