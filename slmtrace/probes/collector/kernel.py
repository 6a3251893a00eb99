"""Direct calls of bpf(2) and perf_event_open(2): maps, programs, what they are attached to, run-time statistics.

Structures are packed as include/uapi/linux/bpf.h and perf_event.h lay them out. Every call raises OSError if the kernel
refuses.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import re
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ...capture.syscalls import syscall_names

RAW_TRACEPOINT, TRACEPOINT, PERF_EVENT, KPROBE = 17, 5, 7, 2  # enum bpf_prog_type; a uprobe's is KPROBE

_NUMBERS = {name: number for number, name in syscall_names(platform.machine()).items()}
_MAP_CREATE, _LOOKUP, _UPDATE, _DELETE, _NEXT_KEY, _PROG_LOAD = range(6)
_RAW_TRACEPOINT_OPEN, _LOOKUP_AND_DELETE, _LINK_CREATE, _ENABLE_STATS = 17, 21, 28, 32
_PERF_EVENT, _UPROBE_MULTI = 41, 48  # enum bpf_attach_type
_UPROBE_MULTI_RETURN = 1
_NAME_BYTES = 15
_LICENCE = b"GPL"  # of the programs; some helper functions are for such only

_UPROBES = Path("/sys/bus/event_source/devices/uprobe")
_PERF_TYPE_SOFTWARE, _PERF_TYPE_TRACEPOINT = 1, 2
_PERF_COUNT_SW_CPU_CLOCK = 0
_PERF_FLAG_FD_CLOEXEC = 8
_USER_CODE = 1 << 5 | 1 << 7  # exclude_kernel and exclude_idle of struct perf_event_attr
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


def load_program(name: str, kind: int, instructions: bytes, attach_type: int = 0) -> int:
    """Have a program verified and compiled by the kernel; return its descriptor."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(_LICENCE)
    addresses = ctypes.addressof(code), ctypes.addressof(licence)
    text = name.encode()[:_NAME_BYTES]
    size = len(instructions) // 8
    attributes = struct.pack("<IIQQIIQII16sII", kind, size, *addresses, 0, 0, 0, 0, 0, text, 0, attach_type)
    return _bpf(_PROG_LOAD, attributes)


def attach_raw_tracepoint(name: str, program: int) -> int:
    """Run a program at a tracepoint until the returned descriptor is closed."""
    text = ctypes.create_string_buffer(name.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QII", ctypes.addressof(text), program, 0))


def attach_tracepoint(number: int, program: int) -> int:
    """Run a program at the tracepoint that tracefs gives this number, on all CPUs."""
    return _run_at(_open_event(_PERF_TYPE_TRACEPOINT, number), program)


def attach_software_event(number: int, cpu: int, program: int) -> int:
    """Run a program at each software event of a CPU."""
    return _run_at(_open_event(_PERF_TYPE_SOFTWARE, number, cpu), program)


def attach_clock(period_ns: int, cpu: int, program: int) -> int:
    """Run a program every so often while a CPU runs user code."""
    return _run_at(_open_event(_PERF_TYPE_SOFTWARE, _PERF_COUNT_SW_CPU_CLOCK, cpu, period_ns, _USER_CODE), program)


def attach_uprobes(path: str, offsets: Mapping[int, int], is_return: bool, load: Callable[[int], int]) -> list[int]:
    """Run a program where offsets of a file are executed, or where the functions there return, in all processes.

    A program can ask for its place's key in `offsets`. `load` returns one that is loaded for an attach type.
    """
    try:
        return [_attach_uprobes_at_once(path, offsets, is_return, load(_UPROBE_MULTI))]
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    # Before Linux 6.6, one by one; to take each away again takes the kernel a tenth of a second.
    return [_attach_uprobe(path, offset, is_return, load(0), key) for key, offset in offsets.items()]


def _attach_uprobes_at_once(path: str, offsets: Mapping[int, int], is_return: bool, program: int) -> int:
    name = ctypes.create_string_buffer(os.fsencode(path))
    columns = [(ctypes.c_uint64 * len(offsets))(*column) for column in (offsets.values(), offsets.keys())]
    places, cookies = map(ctypes.addressof, columns)
    flags = _UPROBE_MULTI_RETURN if is_return else 0
    what = (ctypes.addressof(name), places, 0, cookies, len(offsets), flags, 0, 0)
    return _bpf(_LINK_CREATE, struct.pack("<4I4Q4I", program, 0, _UPROBE_MULTI, 0, *what))


def _attach_uprobe(path: str, offset: int, is_return: bool, program: int, cookie: int) -> int:
    kind = int((_UPROBES / "type").read_text())
    (bit,) = re.findall(r"config:(\d+)", (_UPROBES / "format" / "retprobe").read_text())
    name = ctypes.create_string_buffer(os.fsencode(path))
    event = _open_event(kind, is_return << int(bit), place=(ctypes.addressof(name), offset))
    try:
        # The link keeps the event open.
        return _bpf(_LINK_CREATE, struct.pack("<4IQ", program, event, _PERF_EVENT, 0, cookie))
    finally:
        os.close(event)


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


def _run_at(event: int, program: int) -> int:
    """Let a program run at each occurrence of an open event; return the event."""
    try:
        fcntl.ioctl(event, _PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event


def _open_event(
    kind: int, config: int, cpu: int = 0, period: int = 1, flags: int = 0, place: tuple[int, int] = (0, 0)
) -> int:
    """Open an event of any process."""
    size_bytes = _PERF_ATTRIBUTES.size
    attributes = _PERF_ATTRIBUTES.pack(kind, size_bytes, config, period, 0, 0, flags, 1, 0, *place)
    given = ctypes.create_string_buffer(attributes, size_bytes)
    return _call("perf_event_open", ctypes.byref(given), -1, cpu, -1, ctypes.c_ulong(_PERF_FLAG_FD_CLOEXEC))


def _call(name: str, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(_NUMBERS[name]), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return int(result)
