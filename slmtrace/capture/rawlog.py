"""Write and read the header of a raw log. Standard library only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .cupti import BLOCKS
from .layout import HEADER_BYTES, LOST_OFFSET, MAGIC, RING, SLOT, Layout

LAYOUTS = {layout.name: layout for layout in (SLOT, RING, BLOCKS)}


class RawLogError(ValueError):
    """A file is not a raw log that this build can read; the message says why."""


def encode_header(source: str, layout: Layout, **facts: Any) -> bytes:
    """Return the 4096-byte header of a raw log: what it is, and `facts` of the recorder (all JSON)."""
    header = {
        "magic": MAGIC,
        "source": source,
        "layout": layout.name,
        "layout_version": layout.version,
        "record_bytes": layout.record_bytes(),
        "fields": [list(field) for field in layout.fields],
        **facts,
    }
    line = json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    if len(line) > LOST_OFFSET:
        raise RawLogError(f"header of {source} takes {len(line)} bytes, {LOST_OFFSET} fit")
    return line.ljust(HEADER_BYTES, b"\0")


def read_header(path: Path) -> dict[str, Any]:
    """Read and check the header of a raw log.

    The live count of lost records is returned as `lost`.

    Raises:
        RawLogError: not a raw log, cut inside its header, or of another version.
    """
    with path.open("rb") as file:
        block = file.read(HEADER_BYTES)
    if len(block) < HEADER_BYTES:
        raise RawLogError("cut inside its header")
    try:
        header = json.loads(block[:LOST_OFFSET].rstrip(b"\0"))
    except (ValueError, RecursionError) as error:
        raise RawLogError("no header") from error
    if not isinstance(header, dict) or header.get("magic") != MAGIC or not isinstance(header.get("source"), str):
        raise RawLogError("not a slmtrace raw log")
    layout = LAYOUTS.get(str(header.get("layout")))
    if layout is None or header.get("layout_version") != layout.version:
        raise RawLogError(
            f"layout {header.get('layout')!r} version {header.get('layout_version')!r} is unknown to this build"
        )
    if header.get("fields") != [list(field) for field in layout.fields]:
        raise RawLogError("its fields are not those of its layout")
    header["lost"] = int.from_bytes(block[LOST_OFFSET : LOST_OFFSET + 8], "little")
    return header


def create(path: Path, header: bytes) -> int:
    """Create a raw log readable by its owner alone, write its header and return the open descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.write(descriptor, header)
    return descriptor
