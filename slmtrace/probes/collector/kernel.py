"""Direct calls of bpf(2) and perf_event_open(2): maps, programs, what they are attached to, run-time statistics.

Structures are packed as include/uapi/linux/bpf.h and perf_event.h lay them out. Every call raises OSError if the kernel
refuses.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import re
import struct
import time
from pathlib import Path

RAW_TRACEPOINT, TRACEPOINT, PERF_EVENT, KPROBE = 17, 5, 7, 2  # enum bpf_prog_type; a uprobe's is KPROBE

_X86_64 = {"bpf": 321, "perf_event_open": 298, "membarrier": 324}
_NUMBERS = {"aarch64": {"bpf": 280, "perf_event_open": 241, "membarrier": 283}}.get(platform.machine(), _X86_64)
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROG_LOAD = range(6)
_RAW_TRACEPOINT_OPEN, _LOOKUP_AND_DELETE, _ENABLE_STATS = 17, 21, 32
_NAME_BYTES = 15
_LICENCE = b"GPL"  # of the programs; some helper functions are for such only

_UPROBES = Path("/sys/bus/event_source/devices/uprobe")
_PERF_TYPE_SOFTWARE, _PERF_TYPE_TRACEPOINT = 1, 2
_PERF_COUNT_SW_CPU_CLOCK = 0
_PERF_FLAG_FD_CLOEXEC = 8
_DISABLED, _EXCLUDE_KERNEL, _EXCLUDE_IDLE = 1 << 0, 1 << 5, 1 << 7  # struct perf_event_attr
_PERF_EVENT_IOC_ENABLE, _PERF_EVENT_IOC_SET_BPF = 0x2400, 0x40042408
_PERF_ATTRIBUTES = struct.Struct("<IIQQQQQIIQQ")

_MEMBARRIER_CMD_GLOBAL = 1
_PATIENCE_S = 0.1

# r0 = 0; exit
_DO_NOTHING = bytes([0xB7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0])

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def create_map(name: str, kind: int, key_bytes: int, value_bytes: int, max_entries: int, flags: int) -> int:
    """Create a map and return its descriptor."""
    text = name.encode()[:_NAME_BYTES]
    return _bpf(_MAP_CREATE, struct.pack("<7I16s", kind, key_bytes, value_bytes, max_entries, flags, 0, 0, text))


def look_up(descriptor: int, key: bytes, n_bytes: int) -> bytes:
    """Return the value of a key, which takes so many bytes."""
    return _get(_LOOKUP, descriptor, key, n_bytes)


def pop(descriptor: int, n_bytes: int) -> bytes:
    """Take the next value out of a queue."""
    return _get(_LOOKUP_AND_DELETE, descriptor, b"", n_bytes)


def next_key(descriptor: int, key: bytes, n_bytes: int) -> bytes:
    """Return the key after this one; after b"", the first."""
    return _get(_NEXT_KEY, descriptor, key, n_bytes)


def update(descriptor: int, key: bytes, value: bytes) -> None:
    """Set the value of a key."""
    given = ctypes.create_string_buffer(value, len(value))
    _element(_UPDATE, descriptor, key, ctypes.addressof(given))


def delete(descriptor: int, key: bytes) -> None:
    """Take a key out."""
    _element(_DELETE, descriptor, key, 0)


def load_program(name: str, kind: int, instructions: bytes) -> int:
    """Have a program verified and compiled by the kernel; return its descriptor."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(_LICENCE)
    addresses = ctypes.addressof(code), ctypes.addressof(licence)
    text = name.encode()[:_NAME_BYTES]
    return _bpf(_PROG_LOAD, struct.pack("<IIQQIIQII16s", kind, len(instructions) // 8, *addresses, 0, 0, 0, 0, 0, text))


def attach_raw_tracepoint(name: str, program: int) -> int:
    """Run a program at a tracepoint until the returned descriptor is closed."""
    text = ctypes.create_string_buffer(name.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QII", ctypes.addressof(text), program, 0))


def attach_tracepoint(number: int, program: int) -> int:
    """Run a program at the tracepoint that tracefs gives this number, on all CPUs."""
    return _attach_event(_PERF_TYPE_TRACEPOINT, number, program)


def attach_software_event(number: int, cpu: int, program: int) -> int:
    """Run a program at each software event of a CPU."""
    return _attach_event(_PERF_TYPE_SOFTWARE, number, program, cpu)


def attach_clock(period_ns: int, cpu: int, program: int) -> int:
    """Run a program every so often while a CPU runs user code."""
    flags = _EXCLUDE_KERNEL | _EXCLUDE_IDLE
    return _attach_event(_PERF_TYPE_SOFTWARE, _PERF_COUNT_SW_CPU_CLOCK, program, cpu, period=period_ns, flags=flags)


def attach_uprobe(path: str, offset: int, is_return: bool, program: int) -> int:
    """Run a program where an offset of a file is executed, or where the function there returns, in all processes."""
    kind = int((_UPROBES / "type").read_text())
    (bit,) = re.findall(r"config:(\d+)", (_UPROBES / "format" / "retprobe").read_text())
    name = ctypes.create_string_buffer(os.fsencode(path))
    return _attach_event(kind, is_return << int(bit), program, place=(ctypes.addressof(name), offset))


def try_raw_tracepoint(name: str) -> None:
    """Load a program of two instructions, attach it to a raw tracepoint and take it away again."""
    program = load_program("try", RAW_TRACEPOINT, _DO_NOTHING)
    try:
        os.close(attach_raw_tracepoint(name, program))
    finally:
        os.close(program)


def enable_statistics() -> int:
    """Let the kernel account the run time of BPF programs while the returned descriptor is open; -1 if it will not."""
    try:
        return _bpf(_ENABLE_STATS, struct.pack("<I", 0))
    except OSError:
        return -1


def wait_for_programs() -> None:
    """Wait until each program that runs now has returned: programs run inside RCU read-side sections."""
    try:
        _call("membarrier", _MEMBARRIER_CMD_GLOBAL, 0)  # waits for an RCU grace period (kernel/sched/membarrier.c)
    except OSError:  # a kernel with nohz_full has no such command
        time.sleep(_PATIENCE_S)


def describe(descriptor: int) -> dict[str, str]:
    """Return what the kernel tells of an open map or program, by name."""
    lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _get(command: int, descriptor: int, key: bytes, n_bytes: int) -> bytes:
    found = ctypes.create_string_buffer(n_bytes)
    _element(command, descriptor, key, ctypes.addressof(found))
    return found.raw


def _element(command: int, descriptor: int, key: bytes, value_address: int) -> None:
    given = ctypes.create_string_buffer(key, len(key))
    key_address = ctypes.addressof(given) if key else 0
    _bpf(command, struct.pack("<IIQQQ", descriptor, 0, key_address, value_address, 0))


def _bpf(command: int, attributes: bytes) -> int:
    given = ctypes.create_string_buffer(attributes, len(attributes))
    return _call("bpf", command, ctypes.byref(given), len(attributes))


def _attach_event(
    kind: int,
    config: int,
    program: int,
    cpu: int = 0,
    *,
    place: tuple[int, int] = (0, 0),
    period: int = 1,
    flags: int = 0,
) -> int:
    """Open an event of any process, let a program run at each, or once a period, and switch it on."""
    size_bytes = _PERF_ATTRIBUTES.size
    attributes = _PERF_ATTRIBUTES.pack(kind, size_bytes, config, period, 0, 0, _DISABLED | flags, 1, 0, *place)
    given = ctypes.create_string_buffer(attributes, size_bytes)
    event = _call("perf_event_open", ctypes.byref(given), -1, cpu, -1, ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC))
    try:
        fcntl.ioctl(event, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event


def _call(name: str, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(_NUMBERS[name]), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return int(result)
