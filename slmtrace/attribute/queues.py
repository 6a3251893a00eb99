"""The engine's queue: when a request waited in it, and which thread had put it there.

While a request is queued, the engine works on others, and what that work is does not concern it. Before, the request's
own way counts, not the engine's: the walk leaves the queue by the thread that put the request into it.
"""

from __future__ import annotations

import numpy as np

from ..model.events import EventKind
from ..model.taxonomy import Stage
from ..model.trace import Trace
from .timeline import Timeline, empty_timeline, sequence


def queue_stretches(trace: Trace, request_id: str) -> Timeline:
    """Return when the engine knew of a request and worked on others; owners are event rows."""
    events = trace.events
    if not request_id:
        return empty_timeline()
    is_queued = (events.kind == EventKind.ASYNC) & (events.stage == Stage.QUEUE)
    rows = np.flatnonzero(is_queued & (events.request == trace.strings.intern(request_id)))
    rows = rows[events.end_ns[rows] > events.start_ns[rows]]
    rows = rows[np.argsort(events.start_ns[rows], kind="stable")]
    return sequence(events.start_ns[rows], events.end_ns[rows], rows)


def queue_entries(trace: Trace, stretches: Timeline) -> dict[int, int]:
    """Return, by the start of each stretch, the track of the call on this request that ended there."""
    events = trace.events
    entries = {}
    for start_ns, row in zip(stretches.start_ns.tolist(), stretches.owner.tolist(), strict=True):
        is_put = (events.kind == EventKind.RANGE) & (events.end_ns == start_ns)
        found = np.flatnonzero(is_put & (events.request == events.request[row]))
        if len(found):
            entries[start_ns] = int(events.track[found[0]])
    return entries
