"""What a step of the engine computed for the request, and what for others that shared the step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..capture.layout import STEP
from ..model.events import EventKind, Ints
from ..model.report import BATCH_OTHERS, BATCH_OWN, CauseShare
from ..model.segments import Segments
from ..model.taxonomy import Phase
from ..model.trace import Trace, Window


def add_batch(shares: list[CauseShare], window: Window, segments: Segments, trace: Trace) -> list[CauseShare]:
    """Give each cause of the compute phase its `batch`: the time of steps that were shared, by tokens.

    A step computes its tokens together, so the time is divided as the tokens are.
    """
    steps = _shared_steps(window, trace)
    if not len(steps):
        return shares
    return [
        _with_batch(share, steps, segments, trace) if share.cause.phase is Phase.COMPUTE else share for share in shares
    ]


def _shared_steps(window: Window, trace: Trace) -> Ints:
    """Return the rows of the request's steps that computed tokens of others too."""
    events = trace.events
    if not window.request_id:
        return np.empty(0, np.int64)
    rows = events.of_kind(EventKind.ASYNC)
    is_mine = events.request[rows] == trace.strings.intern(window.request_id)
    steps: Ints = rows[is_mine & (events.name[rows] == trace.strings.intern(STEP))]
    shared: Ints = steps[events.detail[steps] > events.count[steps]]
    return shared


def _with_batch(share: CauseShare, steps: Ints, segments: Segments, trace: Trace) -> CauseShare:
    events = trace.events
    mine = segments.cause == share.cause
    start_ns, end_ns = segments.start_ns[mine], segments.end_ns[mine]
    own_ns = own_tokens = others_ns = other_tokens = 0
    for step in steps.tolist():
        inside = np.minimum(end_ns, events.end_ns[step]) - np.maximum(start_ns, events.start_ns[step])
        step_ns = int(np.maximum(inside, 0).sum())
        own, total = int(events.count[step]), int(events.detail[step])
        own_ns += step_ns * own // total
        others_ns += step_ns - step_ns * own // total
        own_tokens, other_tokens = own_tokens + own, other_tokens + total - own
    rows: list[dict[str, Any]] = [
        {"name": BATCH_OWN, "ns": own_ns, "count": own_tokens, "bytes": 0},
        {"name": BATCH_OTHERS, "ns": others_ns, "count": other_tokens, "bytes": 0},
    ]
    return replace(share, detail={**share.detail, "batch": rows}) if own_ns + others_ns else share
