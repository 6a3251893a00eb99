"""Queues: when a request waited in the engine's, and which thread had put it there, or into the tokenizer's.

While a request is queued, the engine works on others, and what that work is does not concern it. Before, the request's
own way counts, not the engine's: the walk leaves the queue by the thread that put the request into it. So it leaves a
tokenizer that was busy with other prompts. And whatever a front end was busy with when a first token came, before that
the token's way led through the engine's step.
"""

from __future__ import annotations

import numpy as np

from ..capture.layout import MARK_REQUEST_END, STEP
from ..model.events import EventKind, union
from ..model.taxonomy import Stage
from ..model.trace import Trace, Window
from ..model.windows import marks
from .timeline import Timeline, empty_timeline, gaps, sequence


def queue_stretches(trace: Trace, request_id: str) -> Timeline:
    """Return when the engine knew of a request and had not begun with it; owners are event rows."""
    events = trace.events
    if not request_id:
        return empty_timeline()
    is_queued = (events.kind == EventKind.ASYNC) & (events.stage == Stage.QUEUE)
    rows = np.flatnonzero(is_queued & (events.request == trace.strings.intern(request_id)))
    rows = rows[events.end_ns[rows] > events.start_ns[rows]]
    rows = rows[np.argsort(events.start_ns[rows], kind="stable")]
    return sequence(events.start_ns[rows], events.end_ns[rows], rows)


def behind_others(trace: Trace, request_id: str, queued: Timeline) -> Timeline:
    """Return the parts of a request's queue in which the engine had other requests: what it did otherwise is no queue.

    Where no steps were recorded, as in imported spans, it had others all the time.
    """
    others = _others_in_engine(trace, request_id) if len(queued) else None
    return queued if others is None else gaps(queued, gaps(queued, others))


def _others_in_engine(trace: Trace, request_id: str) -> Timeline | None:
    """Return when the engine had other requests: from their first step until they ended. None: no step is known."""
    events = trace.events
    steps = np.flatnonzero((events.kind == EventKind.ASYNC) & (events.name == trace.strings.intern(STEP)))
    if not len(steps):
        return None
    ended_ns = {mark.request: mark.ts_ns for mark in marks(trace, MARK_REQUEST_END)}
    names = [trace.strings[int(request)] for request in events.request[steps].tolist()]
    is_other = np.array([name != request_id for name in names])
    until_ns = np.array([ended_ns.get(name, 0) for name in names], np.int64)
    until_ns = np.maximum(until_ns, events.end_ns[steps])[is_other]
    if not is_other.any():
        return empty_timeline()
    start_ns, end_ns = union(events.start_ns[steps][is_other], until_ns)
    return Timeline(start_ns, end_ns, np.zeros(len(start_ns), np.int64))


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


def tokenize_entry(trace: Trace, window: Window) -> dict[int, int]:
    """Return, by when the tokens of the window's prompt were first awaited, the thread that awaited them."""
    events = trace.events
    if not window.request_id:
        return {}
    is_mine = (events.request == trace.strings.intern(window.request_id)) & (events.stage == Stage.TOKENIZE)
    awaited = np.flatnonzero(is_mine & (events.kind == EventKind.ASYNC) & (events.start_ns >= window.start_ns))
    if not len(awaited):
        return {}
    start_ns = int(events.start_ns[awaited].min())
    slices = np.flatnonzero(is_mine & (events.kind == EventKind.RANGE) & (events.start_ns >= start_ns))
    if not len(slices):
        return {}
    return {start_ns: int(events.track[slices[np.argmin(events.start_ns[slices])]])}


def step_entries(trace: Trace, window: Window) -> dict[int, int]:
    """Return, by the begin and the end of the step that made the window's first token, the engine's thread."""
    events = trace.events
    if not window.request_id:
        return {}
    is_step = (events.kind == EventKind.ASYNC) & (events.name == trace.strings.intern(STEP))
    is_mine = events.request == trace.strings.intern(window.request_id)
    steps = np.flatnonzero(is_step & is_mine & (events.end_ns <= window.end_ns))
    if not len(steps):
        return {}
    step = steps[np.argmax(events.end_ns[steps])]
    is_range = events.kind == EventKind.RANGE
    begins = is_range & (events.stage == Stage.SCHEDULE) & (events.end_ns == events.start_ns[step])
    ends = is_range & (events.stage == Stage.RETURN) & (events.start_ns == events.end_ns[step])
    found = {}
    for ts_ns, chosen in ((int(events.start_ns[step]), begins), (int(events.end_ns[step]), ends)):
        rows = np.flatnonzero(chosen)
        if len(rows):
            found[ts_ns] = int(events.track[rows[0]])
    return found
