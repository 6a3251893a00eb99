"""The formats of tracepoints, from tracefs; mounted for this process alone where the machine has not mounted it."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

_PLACES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
_CLONE_NEWNS, _MS_REC, _MS_SLAVE = 0x20000, 0x4000, 1 << 19
_FIELD = re.compile(r"field:[^;]*?(\w+)(?:\[\w*\])?;\s*offset:(\d+);\s*size:(\d+);")


def find_tracefs() -> Path:
    """Return where tracefs is, mounting it in a mount namespace of our own if need be; that ends with this process.

    Raises:
        OSError: it is not mounted and cannot be.
    """
    for place in _PLACES:
        if (place / "events").is_dir():
            return place
    libc = ctypes.CDLL(None, use_errno=True)
    place = _PLACES[0]
    if (
        libc.unshare(_CLONE_NEWNS) < 0
        # What is mounted here must not appear outside, but later mounts outside should appear here.
        or libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None) < 0
        or libc.mount(b"tracefs", os.fsencode(place), b"tracefs", 0, None) < 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))
    return place


def field_offsets(tracefs: Path, event: str) -> dict[str, int]:
    """Return the offsets of a tracepoint's own fields by name; empty if this kernel has no such tracepoint."""
    category, name = event.split(":")
    try:
        text = (tracefs / "events" / category / name / "format").read_text()
    except OSError:
        return {}
    fields = {match[1]: int(match[2]) for match in _FIELD.finditer(text)}
    return {field: offset for field, offset in fields.items() if not field.startswith("common_")}


def tracepoint_number(tracefs: Path, event: str) -> int:
    """Return the number by which perf events know a tracepoint.

    Raises:
        OSError: this kernel has no such tracepoint.
    """
    category, name = event.split(":")
    return int((tracefs / "events" / category / name / "id").read_text())
