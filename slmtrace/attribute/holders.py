"""Who held the lock that a thread waited for: whoever woke it, by what that thread was in just then."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..model.events import NO_EVENT
from ..model.segments import Segments
from ..model.tracks import NO_TRACK
from .evidence import EvidenceBook
from .locks import SAME_WAIT_NS


def holders(segments: Segments, which: NDArray[np.intp], book: EvidenceBook) -> NDArray[np.int32]:
    """Return the holder's innermost range, else its thread, of each of these segments, as string ids; 0: unknown.

    A wait that timed out was ended by nobody, and goes on: its holder is the next one's.
    """
    names = np.zeros(len(which), np.int32)
    next_by_track: dict[int, tuple[int, int]] = {}  # the next wait of a thread: its start, and its holder
    for row in range(len(which) - 1, -1, -1):
        segment = which[row]
        track, end_ns = int(segments.track[segment]), int(segments.end_ns[segment])
        waker = _waker(track, end_ns, book)
        next_ns, next_name = next_by_track.get(track, (0, 0))
        if waker != NO_TRACK:
            names[row] = _doing(waker, end_ns, book)
        elif next_ns - end_ns <= SAME_WAIT_NS:
            names[row] = next_name
        next_by_track[track] = (int(segments.start_ns[segment]), int(names[row]))
    return names


def _waker(track: int, ts_ns: int, book: EvidenceBook) -> int:
    """Return who woke a thread at this very instant."""
    sched = book.trace.sched
    low, high = np.searchsorted(sched.wake_track, [track, track + 1])
    row = low + int(np.searchsorted(sched.wake_ns[low:high], ts_ns))
    return int(sched.wake_by[row]) if row < high and sched.wake_ns[row] == ts_ns else NO_TRACK


def _doing(track: int, ts_ns: int, book: EvidenceBook) -> int:
    (event,) = book.ranges(track).at(np.array([ts_ns], np.int64)).tolist()
    if event != NO_EVENT:
        return int(book.trace.events.name[event])
    thread = book.trace.tracks[track]
    return book.trace.strings.intern(thread.name or thread.process or f"thread {thread.tid}")
