"""Queues: when a request waited in the engine's, and which thread had put it there, or into the tokenizer's.

While a request is queued, the engine works on others, and what that work is does not concern it. Before, the request's
own way counts, not the engine's: the walk leaves the queue by the thread that put the request into it. So it leaves a
tokenizer that was busy with other prompts. And whatever a front end was busy with when a first token came, before that
the token's way led through the engine's step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..capture.layout import MARK_REQUEST_END, STEP
from ..model.events import EventKind, Ints, SmallInts, union
from ..model.taxonomy import Stage
from ..model.trace import Trace, Window
from .timeline import Timeline, empty_timeline, gaps, sequence


def queue_stretches(trace: Trace, request_id: str) -> Timeline:
    """Return when the engine knew of a request and had not begun with it; owners are event rows."""
    events = trace.events
    if not request_id:
        return empty_timeline()
    rows = events.of_kind(EventKind.ASYNC)
    is_mine = events.request[rows] == trace.strings.intern(request_id)
    rows = rows[is_mine & (events.stage[rows] == Stage.QUEUE)]
    rows = rows[events.end_ns[rows] > events.start_ns[rows]]
    rows = rows[np.argsort(events.start_ns[rows], kind="stable")]
    return sequence(events.start_ns[rows], events.end_ns[rows], rows)


@dataclass(frozen=True, slots=True)
class Stays:
    """When requests were in the engine, from their steps until they ended; empty where no steps were recorded."""

    request: SmallInts
    start_ns: Ints
    end_ns: Ints


def engine_stays(trace: Trace) -> Stays:
    """Return the stays of all requests of a trace."""
    events = trace.events
    steps = np.flatnonzero((events.kind == EventKind.ASYNC) & (events.name == trace.strings.intern(STEP)))
    is_end = (events.kind == EventKind.MARK) & (events.name == trace.strings.intern(MARK_REQUEST_END))
    ended_ns = np.zeros(int(events.request.max(initial=0)) + 1, np.int64)
    np.maximum.at(ended_ns, events.request[is_end], events.start_ns[is_end])
    request = events.request[steps]
    return Stays(request, events.start_ns[steps], np.maximum(ended_ns[request], events.end_ns[steps]))


def behind_others(queued: Timeline, stays: Stays, request: int) -> Timeline:
    """Return the parts of a request's queue in which the engine had other requests: what it did otherwise is no queue.

    Where no steps were recorded, as in imported spans, it had others all the time.
    """
    if not len(queued) or not len(stays.request):
        return queued
    is_other = stays.request != request
    if not is_other.any():
        return empty_timeline()
    start_ns, end_ns = union(stays.start_ns[is_other], stays.end_ns[is_other])
    return gaps(queued, gaps(queued, Timeline(start_ns, end_ns, np.zeros(len(start_ns), np.int64))))


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
    request = trace.strings.intern(window.request_id)

    def tokenizing(kind: EventKind, since_ns: int) -> Ints:
        rows = events.of_kind(kind)
        is_mine = (events.request[rows] == request) & (events.stage[rows] == Stage.TOKENIZE)
        chosen: Ints = rows[is_mine & (events.start_ns[rows] >= since_ns)]
        return chosen

    awaited = tokenizing(EventKind.ASYNC, window.start_ns)
    if not len(awaited):
        return {}
    start_ns = int(events.start_ns[awaited].min())
    slices = tokenizing(EventKind.RANGE, start_ns)
    if not len(slices):
        return {}
    return {start_ns: int(events.track[slices[np.argmin(events.start_ns[slices])]])}


def step_entries(trace: Trace, window: Window) -> dict[int, int]:
    """Return, by the begin and the end of the step that made the window's first token, the engine's thread."""
    events = trace.events
    if not window.request_id:
        return {}
    rows = events.of_kind(EventKind.ASYNC)
    is_mine = events.request[rows] == trace.strings.intern(window.request_id)
    steps = rows[is_mine & (events.name[rows] == trace.strings.intern(STEP))]
    steps = steps[events.end_ns[steps] <= window.end_ns]
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
