"""Waits that are not what they look like: for locks that any thread may hold, and in spin loops.

No holder of the interpreter's lock or of an allocator's works for the waiter. Not so the locks of a program: releasing
those is how its threads tell one another that something is done.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from ..model.events import Events
from .rules import HELD_LOCKS, HOLDER_STALLS, Evidence

# Between two timed waits for a lock, a thread only looks whether it may have it.
SAME_WAIT_NS = 500_000


class Spans:
    """Disjoint stretches of threads, by track."""

    def __init__(self) -> None:
        self._starts_ns: dict[int, list[int]] = defaultdict(list)
        self._ends_ns: dict[int, list[int]] = defaultdict(list)

    def add(self, track: int, start_ns: int, end_ns: int) -> None:
        """Add a stretch; a thread's come in order of time."""
        self._starts_ns[track].append(start_ns)
        self._ends_ns[track].append(end_ns)

    def has(self, track: int, ts_ns: int) -> bool:
        """Say whether an instant lies in a stretch."""
        row = bisect_right(self._starts_ns.get(track, ()), ts_ns) - 1
        return row >= 0 and ts_ns < self._ends_ns[track][row]

    def last(self, track: int, ts_ns: int) -> tuple[int, int]:
        """Return the last stretch that began before an instant, (0, 0) if none did."""
        row = bisect_left(self._starts_ns.get(track, ()), ts_ns) - 1
        return (self._starts_ns[track][row], self._ends_ns[track][row]) if row >= 0 else (0, 0)

    def of(self, track: int) -> tuple[list[int], list[int]]:
        """Return the starts and the ends of a thread's stretches."""
        return self._starts_ns[track], self._ends_ns[track]

    def tracks(self) -> list[int]:
        """Return the threads that have any."""
        return list(self._starts_ns)

    def within(self, track: int, since_ns: int, until_ns: int) -> list[tuple[int, int]]:
        """Return the stretches between two instants, cut at them."""
        starts_ns, ends_ns = self._starts_ns.get(track, ()), self._ends_ns.get(track, ())
        rows = range(bisect_right(ends_ns, since_ns), bisect_left(starts_ns, until_ns))
        return [(max(starts_ns[row], since_ns), min(ends_ns[row], until_ns)) for row in rows]


class Locks:
    """Calls in which threads waited for such a lock, what stalled those who may have held one, and spin loops."""

    def __init__(self) -> None:
        self.waits = Spans()
        self.stalls = Spans()
        self.spins = Spans()

    def is_waiting(self, track: int, ts_ns: int) -> bool:
        """Say whether a thread that left the CPU at this instant left it for such a lock."""
        return self.waits.has(track, ts_ns)


def find_locks(events: Events, evidence: NDArray[np.uint8]) -> Locks:
    """Collect them; events are sorted by track and time."""
    locks = Locks()
    for spans, kinds in ((locks.waits, HELD_LOCKS), (locks.stalls, HOLDER_STALLS), (locks.spins, (Evidence.SPIN,))):
        rows = np.flatnonzero(np.isin(evidence, kinds))
        columns = (events.track[rows], events.start_ns[rows], events.end_ns[rows])
        for track, start_ns, end_ns in zip(*(column.tolist() for column in columns), strict=True):
            spans.add(track, start_ns, end_ns)
    return locks
