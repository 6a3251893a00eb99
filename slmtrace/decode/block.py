"""Block requests: the records of their starts, ends and merges to one row a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..capture.layout import RingType
from ..model.events import Ints
from ..model.quality import Issue, Quality
from .base import LATEST_NS
from .ring import Ring, Words, low_half

_SECTOR_BYTES = 512
_START, _DONE, _MERGED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of all devices, one row each."""

    start_ns: Ints
    end_ns: Ints
    device: Ints
    sector: Ints
    size_bytes: Ints
    letter: Words


def pair_requests(ring: Ring, quality: Quality) -> Requests:
    """Pair starts and ends by device and request; what is in flight at the end lasts until then.

    A request that was merged into another is part of that one. A request in flight when the recording began has an end
    and no start, and is left out; two starts or two ends in a row contradict one another, and are counted.
    """
    starts, ends = ring.of_type(RingType.BLOCK_START), ring.of_type(RingType.BLOCK_DONE)
    device = np.concatenate([starts.c, ends.c]) & np.uint64(0xFFFFFFFF)
    number = np.concatenate([starts.c, ends.c]) >> np.uint64(32)
    request = np.where(number == 0, np.concatenate([starts.a, ends.a]), number)
    ts_ns = np.concatenate([starts.ts_ns, ends.ts_ns])
    what = np.concatenate([np.full(len(starts), _START), np.where(ends.b == 1, _MERGED, _DONE)]).astype(np.int64)
    order = np.lexsort((what == _START, ts_ns, request, device))
    what_next = np.append(what[order][1:], -1)
    follows_same = (device[order][1:] == device[order][:-1]) & (request[order][1:] == request[order][:-1])
    what_next[: len(follows_same)][~follows_same] = -1
    is_start = what[order] == _START
    n_twice = int((is_start & (what_next == _START)).sum() + (~is_start & (what_next > _START)).sum())
    quality.note(Issue.UNPAIRED_BLOCK_IO, n_twice)
    size_bytes = low_half(starts.b)
    _merge(starts.ts_ns, device[: len(starts)], starts.a, size_bytes, order[is_start & (what_next == _MERGED)])
    chosen = np.flatnonzero(is_start & ((what_next == _DONE) | (what_next < 0)))
    has_end = what_next[chosen] == _DONE
    end_ns = np.full(len(chosen), _last_ns(ring), np.int64)
    end_ns[has_end] = ts_ns[order[chosen[has_end] + 1]]
    rows = order[chosen]
    return Requests(
        starts.ts_ns[rows],
        np.maximum(end_ns, starts.ts_ns[rows]),
        device[rows].astype(np.int64),
        starts.a[rows].astype(np.int64),
        size_bytes[rows],
        starts.d[rows],
    )


def _merge(ts_ns: Ints, device: Words, sector: Words, size_bytes: Ints, merged: NDArray[np.int64]) -> None:
    """Add the bytes of merged requests to the ones that they became part of, in place, in the order of their starts."""
    if not len(merged):
        return
    is_merged = set(merged.tolist())
    row_by_end: dict[tuple[int, int], int] = {}
    for row in np.argsort(ts_ns, kind="stable").tolist():
        place, first = int(device[row]), int(sector[row])
        into = row_by_end.pop((place, first), None) if row in is_merged else None
        if into is not None:
            size_bytes[into] += size_bytes[row]
        grown = row if into is None else into
        row_by_end[place, int(sector[grown]) + int(size_bytes[grown]) // _SECTOR_BYTES] = grown


def _last_ns(ring: Ring) -> int:
    """Return until when the log reaches."""
    kinds = (RingType.ALIVE, RingType.BLOCK_DONE, RingType.BLOCK_START, RingType.SWITCH)
    return max((int(rows.ts_ns.max()) for rows in map(ring.of_type, kinds) if len(rows)), default=LATEST_NS)
