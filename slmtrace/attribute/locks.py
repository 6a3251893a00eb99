"""Waits for locks that any thread may hold, the interpreter's or an allocator's: no holder works for the waiter.

Not the locks of a program: releasing those is how its threads tell one another that something is done.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from ..model.events import Events
from .rules import HELD_LOCKS


class Locks:
    """The system calls in which threads waited for such a lock, by track."""

    def __init__(self) -> None:
        self._starts_ns: dict[int, list[int]] = defaultdict(list)
        self._ends_ns: dict[int, list[int]] = defaultdict(list)

    def add(self, track: int, start_ns: int, end_ns: int) -> None:
        """Add a call; a thread's calls come in order of time."""
        self._starts_ns[track].append(start_ns)
        self._ends_ns[track].append(end_ns)

    def is_waiting(self, track: int, ts_ns: int) -> bool:
        """Say whether a thread that left the CPU at this instant left it for such a lock."""
        row = bisect_right(self._starts_ns.get(track, ()), ts_ns) - 1
        return row >= 0 and ts_ns < self._ends_ns[track][row]


def find_locks(events: Events, evidence: NDArray[np.uint8]) -> Locks:
    """Collect the calls; events are sorted by track and time."""
    locks = Locks()
    rows = np.flatnonzero(np.isin(evidence, HELD_LOCKS))
    columns = (events.track[rows], events.start_ns[rows], events.end_ns[rows])
    for track, start_ns, end_ns in zip(*(column.tolist() for column in columns), strict=True):
        locks.add(track, start_ns, end_ns)
    return locks
