"""Waits that are not what they look like: for locks that any thread may hold, and in spin loops.

No holder of the interpreter's lock or of an allocator's works for the waiter. Not so the locks of a program: releasing
those is how its threads tell one another that something is done.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..model.events import Events, Ints, SmallInts
from .rules import HELD_LOCKS, HOLDER_STALLS, Evidence

# Between two timed waits for a lock, a thread only looks whether it may have it.
SAME_WAIT_NS = 500_000

_NO_TRACKS, _NO_TIMES = np.empty(0, np.int32), np.empty(0, np.int64)
_NO_ROWS = _NO_TIMES.data, _NO_TIMES.data


class Spans:
    """Disjoint stretches of threads, by track."""

    def __init__(self, track: SmallInts = _NO_TRACKS, start_ns: Ints = _NO_TIMES, end_ns: Ints = _NO_TIMES) -> None:
        """Make them of columns that are sorted by track and time."""
        first = np.flatnonzero(np.diff(track, prepend=track[:1] - 1)).tolist()
        bounds = itertools.pairwise([*first, len(track)])
        self._rows = {int(track[low]): (start_ns[low:high].data, end_ns[low:high].data) for low, high in bounds}

    def has(self, track: int, ts_ns: int) -> bool:
        """Say whether an instant lies in a stretch."""
        starts_ns, ends_ns = self.of(track)
        row = bisect_right(starts_ns, ts_ns) - 1
        return row >= 0 and bool(ts_ns < ends_ns[row])

    def last(self, track: int, ts_ns: int) -> tuple[int, int]:
        """Return the last stretch that began before an instant, (0, 0) if none did."""
        starts_ns, ends_ns = self.of(track)
        row = bisect_left(starts_ns, ts_ns) - 1
        return (starts_ns[row], ends_ns[row]) if row >= 0 else (0, 0)

    def of(self, track: int) -> tuple[memoryview, memoryview]:
        """Return the starts and the ends of a thread's stretches."""
        return self._rows.get(track, _NO_ROWS)

    def tracks(self) -> list[int]:
        """Return the threads that have any."""
        return list(self._rows)

    def within(self, track: int, since_ns: int, until_ns: int) -> list[tuple[int, int]]:
        """Return the stretches between two instants, cut at them."""
        starts_ns, ends_ns = self.of(track)
        rows = range(bisect_right(ends_ns, since_ns), bisect_left(starts_ns, until_ns))
        return [(max(starts_ns[row], since_ns), min(ends_ns[row], until_ns)) for row in rows]


@dataclass(frozen=True, slots=True)
class Locks:
    """Calls in which threads waited for such a lock, what stalled those who may have held one, and spin loops."""

    waits: Spans = field(default_factory=Spans)
    stalls: Spans = field(default_factory=Spans)
    spins: Spans = field(default_factory=Spans)

    def is_waiting(self, track: int, ts_ns: int) -> bool:
        """Say whether a thread that left the CPU at this instant left it for such a lock."""
        return self.waits.has(track, ts_ns)


def find_locks(events: Events, evidence: NDArray[np.uint8]) -> Locks:
    """Collect them; events are sorted by track and time."""
    rows_by_use = (np.flatnonzero(np.isin(evidence, kinds)) for kinds in (HELD_LOCKS, HOLDER_STALLS, (Evidence.SPIN,)))
    return Locks(*(Spans(events.track[rows], events.start_ns[rows], events.end_ns[rows]) for rows in rows_by_use))
