"""Malloc logs (SLOT, one a process) to MALLOC events: one slow allocator call each, on the thread that made it."""

from __future__ import annotations

import numpy as np

from ..capture.directory import RawLog
from ..capture.layout import MALLOC_OPS, SlotKind
from ..model.events import EventKind, make_events
from ..model.quality import Issue
from .base import Context, Fragment, pid_of
from .slots import read_slots


def decode(log: RawLog, context: Context) -> Fragment:
    """Decode the slow allocator calls of one process."""
    slots = read_slots(log, context)
    calls = slots.of_kind(SlotKind.MALLOC)
    is_known = calls["name"] < len(MALLOC_OPS)
    context.quality.note(Issue.UNKNOWN_KIND, len(slots.records) - int(is_known.sum()))
    calls = calls[is_known]
    is_negative = calls["end_ns"] < calls["start_ns"]
    context.quality.note(Issue.NEGATIVE_DURATION, int(is_negative.sum()))
    calls = calls[~is_negative]
    pid = pid_of(log)
    track_by_tid = {tid: context.tracks.thread(tid, pid) for tid in np.unique(calls["tid"]).tolist()}
    name_by_op = np.array([context.strings.intern(op) for op in MALLOC_OPS], np.int32)
    events = make_events(
        len(calls),
        start_ns=calls["start_ns"],
        end_ns=calls["end_ns"],
        track=[track_by_tid[tid] for tid in calls["tid"].tolist()],
        kind=EventKind.MALLOC,
        name=name_by_op[calls["name"]],
        size_bytes=calls["a"],
        detail=calls["b"],
    )
    return Fragment(log.source, events, decoded=slots.n_records)
