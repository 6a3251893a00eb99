"""COUNTER records (SLOT) to counter series; shared by the sources that write nothing else."""

from __future__ import annotations

import numpy as np

from ..capture.directory import RawLog
from ..capture.layout import SlotKind
from ..model.quality import Issue
from ..model.trace import CounterSeries
from .base import Context, Fragment
from .slots import read_slots


def decode_counters(log: RawLog, context: Context) -> Fragment:
    """Decode a log of counters: one series a name, in order of the name, its values in order of time."""
    slots = read_slots(log, context)
    records = slots.of_kind(SlotKind.COUNTER)
    context.quality.note(Issue.UNKNOWN_KIND, len(slots.records) - len(records))
    series: list[CounterSeries] = []
    for string_id in np.unique(records["name"]).tolist():
        text = slots.texts.get(string_id)
        chosen = records[records["name"] == string_id]
        if text is None:
            context.quality.note(Issue.MISSING_STRING, len(chosen))
            continue
        name, _, unit = text.rpartition(" ")
        ts_ns = chosen["start_ns"].astype(np.int64)
        order = np.argsort(ts_ns, kind="stable")
        series.append(CounterSeries(name or unit, unit, ts_ns[order], chosen["a"].astype(np.int64)[order]))
    return Fragment(log.source, counters=sorted(series, key=lambda one: one.name), decoded=slots.n_records)
