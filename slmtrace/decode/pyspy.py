"""The py-spy log (SLOT) to SAMPLE events: instants on thread tracks, each with the stack that was seen.

A record is a stretch in which every sample showed the same stack; it becomes one event a sample again, at most 100 for
a thread that does nothing for long, whose events then count for several samples each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..capture.directory import RawLog
from ..capture.layout import SlotKind
from ..model.events import EventKind, make_events
from ..model.quality import Issue
from .base import Context, Fragment, Records
from .clock import clock_reads
from .slots import intern_column, read_slots

MAX_EVENTS_A_STRETCH = 100
DEFAULT_SAMPLE_HZ = 100


def decode(log: RawLog, context: Context) -> Fragment:
    """Decode stack samples; their times are in the log's own clock, whose reads go along."""
    slots = read_slots(log, context)
    stretches = slots.of_kind(SlotKind.SAMPLE)
    reads = clock_reads(slots, context)
    is_known = np.isin(slots.records["kind"], (SlotKind.SAMPLE, SlotKind.CLOCK))
    context.quality.note(Issue.UNKNOWN_KIND, int((~is_known).sum()))
    is_negative = stretches["end_ns"] < stretches["start_ns"]
    context.quality.note(Issue.NEGATIVE_DURATION, int(is_negative.sum()))
    stretches = stretches[~is_negative]
    row, start_ns, count = _spread(stretches, _period_ns(log))
    pairs = np.unique(np.stack([stretches["tid"].astype(np.int64), stretches["b"]], axis=1), axis=0).tolist()
    thread = {tid: context.tracks.thread(tid, pid) for tid, pid in pairs}
    track = np.array([thread[tid] for tid in stretches["tid"].tolist()], np.int32)
    events = make_events(
        len(row),
        start_ns=start_ns,
        end_ns=start_ns,
        track=track[row],
        kind=EventKind.SAMPLE,
        name=intern_column(stretches["name"], slots, context)[row],
        count=count,
        flags=stretches["a"][row] & 1,
    )
    return Fragment(log.source, events, clock_reads=reads, decoded=slots.n_records)


def _spread(stretches: Records, period_ns: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return for each event the row of its stretch, its time, and how many samples it counts for."""
    start_ns = stretches["start_ns"].astype(np.int64)
    dur_ns = stretches["end_ns"].astype(np.int64) - start_ns
    n_samples = np.maximum(1, -(-dur_ns // period_ns))
    n_events = np.minimum(n_samples, MAX_EVENTS_A_STRETCH)
    row = np.repeat(np.arange(len(stretches), dtype=np.int64), n_events)
    index = np.arange(len(row), dtype=np.int64) - np.repeat(np.cumsum(n_events) - n_events, n_events)
    # The samples are shared out evenly; the first events of a stretch take what does not divide.
    count = n_samples[row] // n_events[row] + (index < n_samples[row] % n_events[row])
    return row, start_ns[row] + index * dur_ns[row] // n_events[row], count


def _period_ns(log: RawLog) -> int:
    sample_hz = log.header.get("sample_hz")
    return 10**9 // (sample_hz if isinstance(sample_hz, int) and 0 < sample_hz <= 10**6 else DEFAULT_SAMPLE_HZ)
