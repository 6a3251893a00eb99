"""What a log's header says of its process, as JSON by hand: the json module would double the cost of a start."""

from __future__ import annotations

import os
import sys
import time

from . import constants as c


def header(pid: int, program: str) -> bytes:
    """Return the log's header; equal, byte for byte, to what capture/rawlog.py encodes."""
    ppid, process_start_ns = _parent_and_start()
    facts = {
        "boot_ns": time.monotonic_ns(),
        "executable": os.path.basename(sys.executable or ""),
        "fields": c.FIELDS,
        "layout": c.LAYOUT,
        "layout_version": c.LAYOUT_VERSION,
        "magic": c.MAGIC,
        "pid": pid,
        "ppid": ppid,
        "process_start_ns": process_start_ns,
        "program": program,
        "python": sys.version.split()[0],
        "record_bytes": c.RECORD_BYTES,
        "source": "ranges",
    }
    line = _json(facts).encode() + b"\n"
    return line.ljust(c.HEADER_BYTES, b"\0")


def program_name() -> str:
    """Return the script's file name, or the module run with -m. Arguments may hold secrets and are left out."""
    with open("/proc/self/cmdline", "rb") as file:
        arguments = file.read(1 << 16).decode("utf-8", "replace").split("\0")[1:]
    while arguments:
        argument = arguments.pop(0)
        if argument == "--check-hash-based-pycs":
            arguments = arguments[1:]
        elif argument and not argument.startswith("-"):
            return os.path.basename(argument)[:200]
        elif not argument.startswith("--"):
            option, value = _valued_option(argument, arguments)
            if option == "m":
                return value[:200]
            if option == "c":
                return _command_name(value)
    return "python"


def _valued_option(argument: str, following: list[str]) -> tuple[str, str]:
    """Return the option of a cluster of short ones, as -uc, that has a value, and the value; it ends the cluster."""
    for position, option in enumerate(argument):
        if option in "cmWX":
            return option, argument[position + 1 :] or (following.pop(0) if following else "")
    return "", ""


def _command_name(command: str) -> str:
    # The helper processes of multiprocessing are started as python -c "from multiprocessing.spawn import ...".
    words = command.split(None, 2)
    if words[:1] == ["from"] and len(words) > 1 and words[1].startswith("multiprocessing."):
        return words[1]
    return "-c"


def _parent_and_start() -> tuple[int, int]:
    """Return the parent's pid and when this process was forked, to the tick (proc(5): ticks of CLOCK_BOOTTIME)."""
    with open("/proc/self/stat", "rb") as file:
        # The command in parentheses may hold anything, so count from its end; the rest starts with field 3, the state.
        fields = file.read().rpartition(b")")[2].split()
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    start_ns = int(fields[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return int(fields[1]), max(start_ns - asleep_ns, 0)


def _json(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(_escape(character) for character in value) + '"'
    if isinstance(value, dict):
        return "{" + ",".join(_json(key) + ":" + _json(item) for key, item in sorted(value.items())) + "}"
    if isinstance(value, tuple):
        return "[" + ",".join(map(_json, value)) + "]"
    raise TypeError(type(value).__name__)


def _escape(character: str) -> str:
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if 0x20 <= code < 0x7F:
        return character
    if code > 0xFFFF:
        code -= 0x10000
        return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
    return f"\\u{code:04x}"
