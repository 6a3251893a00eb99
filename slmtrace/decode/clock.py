"""The clock log (SLOT) to bracketed reads of the other clocks, from which align/clocks.py fits its maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..capture.directory import RawLog
from ..capture.layout import SlotKind
from ..model.quality import Issue
from .base import LATEST_NS, Context, Fragment
from .slots import Slots, read_slots


def decode(log: RawLog, context: Context) -> Fragment:
    """Decode a log of nothing but clock reads."""
    slots = read_slots(log, context)
    reads = clock_reads(slots, context)
    context.quality.note(Issue.UNKNOWN_KIND, int((slots.records["kind"] != SlotKind.CLOCK).sum()))
    return Fragment(log.source, clock_reads=reads, decoded=slots.n_records)


def clock_reads(slots: Slots, context: Context) -> NDArray[np.int64]:
    """Return rows of (ClockId, before_ns, value_ns, after_ns); one with other times than clocks show is left out."""
    records = slots.of_kind(SlotKind.CLOCK)
    reads = np.stack([records[field].astype(np.int64) for field in ("name", "start_ns", "a", "end_ns")], axis=1)
    is_in_time = ((reads[:, 1:] >= 0) & (reads[:, 1:] < LATEST_NS)).all(axis=1)
    context.quality.note(Issue.IMPLAUSIBLE_TIME, int((~is_in_time).sum()))
    is_negative = is_in_time & (reads[:, 3] < reads[:, 1])
    context.quality.note(Issue.NEGATIVE_DURATION, int(is_negative.sum()))
    return reads[is_in_time & ~is_negative]
