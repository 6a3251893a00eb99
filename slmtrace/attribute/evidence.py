"""What each thread's time shows, innermost first: one timeline a thread, and one of its stages.

Layers, from the inside out: reclaim and compaction, page faults, folded faults, system calls, folded system calls,
slow allocator calls, folded allocator calls, GPU API calls, ranges and imports.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..capture.layout import FoldClass
from ..model.events import NO_EVENT, NO_STAGE, EventKind, Ints, is_among, span_of
from ..model.sched import Out
from ..model.taxonomy import Cause, Stage
from ..model.trace import Trace
from .folds import place_folds
from .rules import API_KINDS, COMPILERS, RANGE_CAUSES, State, classify
from .streams import ProcessWork, gpu_work
from .timeline import Timeline, empty_timeline, gaps, nest, overlay, sequence, without_gaps


@dataclass(frozen=True, slots=True)
class Layer:
    """Event kinds that explain at the same depth, and the folds that belong right below them."""

    kinds: tuple[EventKind, ...]
    folds: tuple[FoldClass, ...] = ()


LAYERS = (
    Layer((EventKind.COMPACTION, EventKind.RECLAIM)),
    Layer((EventKind.FAULT,), (FoldClass.ANON_FAULT, FoldClass.FILE_FAULT)),
    Layer(
        (EventKind.SYSCALL,),
        (
            FoldClass.READ,
            FoldClass.ALLOC,
            FoldClass.OPEN_STAT,
            FoldClass.FUTEX,
            FoldClass.OTHER_SYSCALL,
            FoldClass.YIELD,
            FoldClass.IPC,
        ),
    ),
    Layer((EventKind.MALLOC,), (FoldClass.MALLOC,)),
)
RANGE_KINDS = (EventKind.RANGE, EventKind.IMPORT, EventKind.DLOPEN)


@dataclass(slots=True)
class EvidenceBook:
    """The evidence of every thread of a trace, worked out when first asked for."""

    trace: Trace
    evidence: NDArray[np.uint8] = field(init=False)  # Evidence by event row
    _innermost: dict[int, Timeline] = field(default_factory=dict)
    _ranges: dict[int, Timeline] = field(default_factory=dict)
    _stages: dict[tuple[int, tuple[Stage, ...]], Timeline] = field(default_factory=dict)
    _named_causes: dict[int, Timeline] = field(default_factory=dict)
    _busy: dict[int, Timeline] = field(default_factory=dict)
    _cause_by_name: dict[int, Cause] = field(init=False)  # RANGE_CAUSES, by interned label
    gpu: dict[int, ProcessWork] = field(init=False)  # the GPU work of each process, by its pid

    def __post_init__(self) -> None:
        self.evidence = classify(self.trace.events, self.trace.strings)
        self._cause_by_name = {self.trace.strings.intern(label): cause for label, cause in RANGE_CAUSES.items()}
        self.gpu = gpu_work(self.trace)

    def innermost(self, track: int) -> Timeline:
        """Return who explains each instant of a thread; owners are event rows, NO_EVENT where there is none."""
        if track not in self._innermost:
            self._innermost[track] = without_gaps(self._build_innermost(track))
        return self._innermost[track]

    def ranges(self, track: int) -> Timeline:
        """Return the innermost range or import of each instant of a thread; owners are event rows."""
        if track not in self._ranges:
            rows = self.rows(track, RANGE_KINDS)
            self._ranges[track] = self.nested(rows)
        return self._ranges[track]

    def stages(self, track: int, among: tuple[Stage, ...] = tuple(Stage)) -> Timeline:
        """Return the stage of each instant of a thread, where its own ranges say one; owners are Stage values.

        Ranges of stages that are not `among` these do not count.
        """
        key = track, among
        if key not in self._stages:
            rows = self.rows(track, RANGE_KINDS)
            timeline = self.nested(rows[is_among(among)[self.trace.events.stage[rows]]])
            stage = self.trace.events.stage[timeline.owner].astype(np.int64)
            self._stages[key] = Timeline(timeline.start_ns, timeline.end_ns, stage)
        return self._stages[key]

    def named_causes(self, track: int) -> Timeline:
        """Return what running is at each instant of a thread, where a range around says so; owners are Cause values."""
        if track not in self._named_causes:
            rows = self.rows(track, (EventKind.RANGE,))
            timeline = self.nested(rows[np.isin(self.trace.events.name[rows], list(self._cause_by_name))])
            names = self.trace.events.name[timeline.owner].tolist()
            causes = np.array([self._cause_by_name[name] for name in names], np.int64)
            self._named_causes[track] = Timeline(timeline.start_ns, timeline.end_ns, causes)
        return self._named_causes[track]

    def is_compiler(self, track: int) -> bool:
        """Say whether a thread is one of a compiler's."""
        return self.trace.tracks[track].process in COMPILERS

    def running(self, track: int) -> Timeline:
        """Return a thread's stretches on a CPU; owners are rows of the scheduler table."""
        sched = self.trace.sched
        low, high = span_of(sched.run_track, track)
        rows = np.arange(low, high, dtype=np.int64)
        return sequence(sched.run_start_ns[low:high], sched.run_end_ns[low:high], rows)

    def busy(self, track: int) -> Timeline:
        """Return when a thread ran or waited for block I/O; owners are State values.

        Such a wait lasts from a run that ended in one to the next run.
        """
        if track not in self._busy:
            sched, running = self.trace.sched, self.running(track)
            low, high = span_of(sched.run_track, track)
            end_ns, next_ns = sched.run_end_ns[low:high][:-1], sched.run_start_ns[low:high][1:]
            is_wait = (sched.run_out[low:high][:-1] == Out.IOWAIT) & (next_ns > end_ns)
            waits = Timeline(end_ns[is_wait], next_ns[is_wait], np.full(int(is_wait.sum()), State.IO_WAIT, np.int64))
            runs = Timeline(running.start_ns, running.end_ns, np.full(len(running), State.RUN, np.int64))
            self._busy[track] = overlay(runs, waits)
        return self._busy[track]

    def _build_innermost(self, track: int) -> Timeline:
        merged = empty_timeline()
        running = self.running(track)
        for layer in LAYERS:
            events = self.rows(track, layer.kinds)
            merged = overlay(merged, self.nested(events))
            folds = self._fold_rows(track, layer.folds)
            if len(folds):
                merged = overlay(merged, self._place(folds, gaps(running, merged)))
        merged = overlay(merged, self.nested(self.rows(track, API_KINDS)))
        return overlay(merged, self.ranges(track))

    def nested(self, rows: Ints) -> Timeline:
        """Return who is innermost of these events of one thread at each instant; owners are event rows."""
        start, end = self.trace.events.start_ns[rows], self.trace.events.end_ns[rows]
        if np.all(end[:-1] <= start[1:]):
            return sequence(start, end, rows)
        return nest(start, end, rows, self.trace.quality)

    def _place(self, rows: Ints, free: Timeline) -> Timeline:
        events = self.trace.events
        return place_folds(
            events.start_ns[rows], events.end_ns[rows], events.work_ns[rows], rows, free, self.trace.quality
        )

    def rows(self, track: int, kinds: tuple[EventKind, ...]) -> Ints:
        """Return the events of a thread that are of these kinds and last."""
        events = self.trace.events
        low, high = span_of(events.track, track)
        lasts = events.end_ns[low:high] > events.start_ns[low:high]
        chosen: Ints = low + np.flatnonzero(is_among(kinds)[events.kind[low:high]] & lasts)
        return chosen

    def _fold_rows(self, track: int, classes: tuple[FoldClass, ...]) -> Ints:
        events = self.trace.events
        low, high = span_of(events.track, track)
        folds = low + np.flatnonzero((events.kind[low:high] == EventKind.FOLD) & (events.work_ns[low:high] > 0))
        chosen: Ints = folds[np.isin(events.flags[folds], classes)]
        return chosen


def stage_at(stages: Timeline, ts_ns: Ints) -> NDArray[np.uint8]:
    """Return the stage at each instant, NO_STAGE where the thread has none of its own."""
    found = stages.at(ts_ns)
    return np.where(found == NO_EVENT, NO_STAGE, found).astype(np.uint8)


def next_stage(stages: Timeline, ts_ns: Ints, end_ns: int) -> NDArray[np.uint8]:
    """Return the stage that begins next on a thread before `end_ns`; NO_STAGE if none does."""
    row = np.searchsorted(stages.start_ns, ts_ns, side="left")
    known = row < len(stages)
    row = np.minimum(row, max(len(stages) - 1, 0))
    if not len(stages):
        return np.full(len(ts_ns), NO_STAGE, np.uint8)
    known &= stages.start_ns[row] < end_ns
    return np.where(known, stages.owner[row], NO_STAGE).astype(np.uint8)
