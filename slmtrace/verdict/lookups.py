"""How long the path's imports looked for modules and found none: beside the calls, Python's own walk over sys.path.

For every directory on sys.path Python asks for its time, and lists it if that is new (FileFinder in
Lib/importlib/_bootstrap_external.py). The calls are events of their own; the walk around them looks like any import.
"""

from __future__ import annotations

import numpy as np

from ..capture.layout import FoldClass
from ..model.events import EventKind, Ints, distinct_rows, union
from ..model.report import WindowReport
from ..model.taxonomy import Cause
from ..model.trace import Trace
from .intervals import Intervals, covered_ns, intervals

# Calls in a fold (1 ms) with no read between them. A module that is found takes less, and is read.
_LEAST_CALLS = 10
_READS = ("read", "pread64")


def searched_ns(trace: Trace, window: WindowReport) -> int:
    """Return the path's time in imports, without their calls, in which one file was looked for after the other."""
    segments = window.segments
    if segments is None:
        return 0
    is_import = segments.cause == Cause.IMPORT
    total_ns = 0
    for track in distinct_rows(segments.track[is_import])[0].tolist():
        mine = is_import & (segments.track == track)
        if searches := _searches(trace, track):
            total_ns += int(covered_ns(searches, segments.start_ns[mine], segments.end_ns[mine]).sum())
    return total_ns


def _searches(trace: Trace, track: int) -> Intervals | None:
    """Return when a thread did nothing but look for files."""
    events, rows = trace.events, trace.rows_of_track(track)
    kind, flags = events.kind[rows], events.flags[rows]
    lookups = rows[(kind == EventKind.FOLD) & (flags == FoldClass.OPEN_STAT) & (events.count[rows] >= _LEAST_CALLS)]
    names = [trace.strings.intern(name) for name in _READS]
    is_read = (kind == EventKind.FOLD) & (flags == FoldClass.READ)
    is_read |= (kind == EventKind.SYSCALL) & np.isin(events.name[rows], names)
    read_ns: Ints = np.sort(events.start_ns[rows[is_read]])
    first, last = (np.searchsorted(read_ns, ends[lookups]) for ends in (events.start_ns, events.end_ns))
    lookups = lookups[first == last]
    return intervals(*union(events.start_ns[lookups], events.end_ns[lookups])) if len(lookups) else None
