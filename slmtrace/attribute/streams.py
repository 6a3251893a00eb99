"""What each process's GPU streams did, and who launched it: copies, memsets and kernels, followed backwards in time.

A stream works in order, and whatever ends last holds up what waits for it (CUDA C++ Programming Guide, "Streams").
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ..model.events import NO_EVENT, EventKind, Ints
from ..model.trace import Trace
from ..model.tracks import GPU_PROCESS_SHIFT, NO_TRACK, TrackKind
from .timeline import Timeline, empty_timeline

WORK_KINDS = (EventKind.GPU_KERNEL, EventKind.GPU_MEMCPY, EventKind.GPU_MEMSET)
# From one kernel to the next of its stream, the GPU itself takes a few microseconds: no other stream is to blame.
_SAME_STREAM_GAP_NS = 5_000


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a stream's time: some work of it, or none before `next_row` began. Rows are event rows."""

    start_ns: int
    end_ns: int
    track: int  # NO_TRACK where nothing ran
    row: int  # NO_EVENT where nothing ran
    next_row: int  # what ran after it; NO_EVENT: the waiting host itself went on


@dataclass(frozen=True, slots=True)
class _Stream:
    """One stream's work as plain lists, disjoint and sorted."""

    track: int
    start_ns: list[int]
    end_ns: list[int]
    rows: list[int]

    def last_before(self, ts_ns: int) -> int:
        """Return the position of the last work that had ended at `ts_ns`, -1 if there is none."""
        return bisect_right(self.end_ns, ts_ns) - 1


@dataclass(slots=True)
class ProcessWork:
    """The GPU work of one process."""

    trace: Trace
    rows: Ints = field(default_factory=lambda: np.empty(0, np.int64))  # of all its work, by start
    starts_ns: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    has_kernels: bool = False  # whether any was recorded (--no-gpu-kernels)
    calls_ns: Ints = field(default_factory=lambda: np.empty(0, np.int64))  # starts of API calls
    _streams: list[_Stream] = field(default_factory=list)

    def add(self, track: int, rows: Ints) -> None:
        """Take a stream's work."""
        events = self.trace.events
        timeline = last_to_end(events.start_ns[rows], events.end_ns[rows], rows)
        columns = (timeline.start_ns.tolist(), timeline.end_ns.tolist(), timeline.owner.tolist())
        self._streams.append(_Stream(track, *columns))
        every = np.concatenate([self.rows, rows])
        self.rows = every[np.argsort(events.start_ns[every], kind="stable")]
        self.starts_ns = events.start_ns[self.rows]
        self.has_kernels |= bool((events.kind[rows] == EventKind.GPU_KERNEL).any())

    def timelines(self) -> Iterator[tuple[int, Timeline]]:
        """Yield each stream's track and what it did; owners are event rows."""
        for stream in self._streams:
            columns = (np.array(column, np.int64) for column in (stream.start_ns, stream.end_ns, stream.rows))
            yield stream.track, Timeline(*columns)

    def next_kernels(self, ts_ns: Ints) -> Ints:
        """Return the event row of the first kernel to begin at or after each instant, NO_EVENT where there is none."""
        kernels = self.rows[self.trace.events.kind[self.rows] == EventKind.GPU_KERNEL]
        at = np.searchsorted(self.trace.events.start_ns[kernels], ts_ns)
        return np.append(kernels, NO_EVENT)[at]

    def is_busy(self, start_ns: int, end_ns: int) -> bool:
        """Say whether any of it, or a call of the API, began in this time."""
        return any(np.diff(np.searchsorted(each, [start_ns, end_ns]))[0] for each in (self.starts_ns, self.calls_ns))

    def held_up(self, start_ns: int, end_ns: int, stream: int) -> list[Stretch]:
        """Explain a wait that ended at `end_ns` by what ended last, and so on backwards; the stretches fill it.

        `stream` is the number of the stream that was waited for; 0 stands for all.
        """
        streams = [each for each in self._streams if stream in (0, self._number(each))]
        found: list[Stretch] = []
        now, after = end_ns, NO_EVENT
        while now > start_ns:
            last = _last(streams, now)
            position = last.last_before(now) if last is not None else -1
            if last is None or position < 0 or last.end_ns[position] <= start_ns:
                found.append(Stretch(start_ns, now, NO_TRACK, NO_EVENT, after))
                break
            if last.end_ns[position] < now:
                found.append(Stretch(last.end_ns[position], now, NO_TRACK, NO_EVENT, after))
            now, row = max(last.start_ns[position], start_ns), last.rows[position]
            found.append(Stretch(now, last.end_ns[position], last.track, row, after))
            streams, after = self._before(last, now), row
        return found[::-1]

    def _before(self, stream: _Stream, ts_ns: int) -> list[_Stream]:
        """Return the streams that the work of `stream` that began at `ts_ns` may have waited for."""
        position = stream.last_before(ts_ns)
        is_near = position >= 0 and ts_ns - stream.end_ns[position] <= _SAME_STREAM_GAP_NS
        return [stream] if is_near else [stream, *(each for each in self._streams if each is not stream)]

    def _number(self, stream: _Stream) -> int:
        return self.trace.tracks[stream.track].tid & ((1 << GPU_PROCESS_SHIFT) - 1)


def _last(streams: list[_Stream], ts_ns: int) -> _Stream | None:
    """Return the stream whose last finished work ended last; the first of equals."""
    best, best_ns = None, -1
    for stream in streams:
        position = stream.last_before(ts_ns)
        if position >= 0 and stream.end_ns[position] > best_ns:
            best, best_ns = stream, stream.end_ns[position]
    return best


def gpu_work(trace: Trace) -> dict[int, ProcessWork]:
    """Return the GPU work of each process by its pid."""
    found: dict[int, ProcessWork] = {}
    events = trace.events
    for track in trace.tracks.rows(TrackKind.GPU_STREAM):
        rows = trace.rows_of_track(track)
        is_work = np.isin(events.kind[rows], WORK_KINDS) & (events.end_ns[rows] > events.start_ns[rows])
        pid = trace.tracks[track].tid >> GPU_PROCESS_SHIFT
        found.setdefault(pid, ProcessWork(trace)).add(track, rows[is_work])
    calls = events.of_kind(EventKind.CUDA_API)
    pids = trace.tracks.pids()[events.track[calls]]
    for pid in np.unique(pids).tolist():
        found.setdefault(pid, ProcessWork(trace)).calls_ns = np.sort(events.start_ns[calls[pids == pid]])
    return found


def last_to_end(start_ns: Ints, end_ns: Ints, owner: Ints) -> Timeline:
    """Build a timeline of events that may overlap: where several run, the one that ends last owns the time."""
    if not len(start_ns):
        return empty_timeline()
    order = np.argsort(end_ns, kind="stable")
    start, end = start_ns[order], end_ns[order].copy()
    earliest = np.minimum.accumulate(start[::-1])[::-1]
    np.minimum(end[:-1], earliest[1:], out=end[:-1])
    keep = end > start
    return Timeline(start[keep], end[keep], owner[order][keep])
