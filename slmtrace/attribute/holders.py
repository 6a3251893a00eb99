"""Who held the lock that a thread waited for: whoever woke it, by what that thread was in just then."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..model.events import NO_EVENT, Ints, SmallInts, span_of
from ..model.segments import Segments
from ..model.tracks import NO_TRACK
from .evidence import EvidenceBook
from .locks import SAME_WAIT_NS


def holders(segments: Segments, which: NDArray[np.intp], book: EvidenceBook) -> SmallInts:
    """Return the holder's innermost range, else its thread, of each of these segments, as string ids; 0: unknown.

    A wait that timed out was ended by nobody, and goes on: its holder is the next one's.
    """
    names = np.zeros(len(which), np.int32)
    tracks = segments.track[which]
    for track in np.unique(tracks).tolist():
        mine = np.flatnonzero(tracks == track)
        start_ns, end_ns = segments.start_ns[which[mine]], segments.end_ns[which[mine]]
        wakers = _wakers(track, end_ns, book)
        goes_on = (wakers[:-1] == NO_TRACK) & (start_ns[1:] - end_ns[:-1] <= SAME_WAIT_NS)
        ended = np.flatnonzero(np.append(~goes_on, True))
        ended_by = ended[np.searchsorted(ended, np.arange(len(mine)))]
        names[mine] = _doing(wakers, end_ns, book)[ended_by]
    return names


def _wakers(track: int, ts_ns: Ints, book: EvidenceBook) -> SmallInts:
    """Return who woke a thread at each very instant, NO_TRACK: nobody."""
    sched = book.trace.sched
    low, high = span_of(sched.wake_track, track)
    wake_ns, wake_by = np.append(sched.wake_ns[low:high], -1), np.append(sched.wake_by[low:high], NO_TRACK)
    row = np.searchsorted(wake_ns[:-1], ts_ns)
    return np.where(wake_ns[row] == ts_ns, wake_by[row], np.int32(NO_TRACK))


def _doing(tracks: SmallInts, ts_ns: Ints, book: EvidenceBook) -> SmallInts:
    """Return what each of the threads was in at its instant, as string ids; 0 for NO_TRACK."""
    names = np.zeros(len(tracks), np.int32)
    for track in np.unique(tracks[tracks != NO_TRACK]).tolist():
        mine = tracks == track
        thread = book.trace.tracks[track]
        own_name = book.trace.strings.intern(thread.name or thread.process or f"thread {thread.tid}")
        events = book.ranges(track).at(ts_ns[mine])
        names[mine] = np.where(events == NO_EVENT, own_name, book.trace.events.name[events])
    return names
