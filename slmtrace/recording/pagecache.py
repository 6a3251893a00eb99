"""Make the weight files cold or warm before a run: these files alone, never the machine's whole page cache."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..probes.pagecache import evict_from_page_cache, page_cache_residency

_READ_BYTES = 8 << 20
_EVICT_ATTEMPTS = 5


def make_cold(files: Sequence[Path]) -> dict[str, Any]:
    """Write the files back, drop their pages, and say how much stayed resident all the same."""
    resident_bytes = size_bytes = 0
    for attempt in range(_EVICT_ATTEMPTS):
        resident_bytes, size_bytes = evict_from_page_cache(files)
        if not resident_bytes:
            break
        # Pages on their way to the LRU lists, or under writeback, are skipped; a moment later they are not.
        time.sleep(0.05 * (attempt + 1))
    return _facts("cold", files, resident_bytes, size_bytes)


def make_warm(files: Sequence[Path], deadline_s: float = math.inf) -> dict[str, Any]:
    """Read the files through once, or until a time (CLOCK_MONOTONIC), and say how much is resident then."""
    buffer = bytearray(_READ_BYTES)
    resident_bytes = size_bytes = 0
    for path in files:
        with path.open("rb", buffering=0) as file:
            while time.monotonic() < deadline_s and file.readinto(buffer):
                pass
    for path in files:
        resident, size = page_cache_residency(path)
        resident_bytes += resident
        size_bytes += size
    return _facts("warm", files, resident_bytes, size_bytes)


def _facts(mode: str, files: Sequence[Path], resident_bytes: int, size_bytes: int) -> dict[str, Any]:
    return {"mode": mode, "n_files": len(files), "size_bytes": size_bytes, "resident_bytes": resident_bytes}
