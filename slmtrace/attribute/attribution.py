"""Attribute a trace: every window, its critical path, its segments, its sums."""

from __future__ import annotations

import numpy as np

from ..model.report import WindowReport
from ..model.sched import Out
from ..model.segments import Segments
from ..model.trace import Trace, Window
from ..model.tracks import TrackKind
from .breakdown import build_window_report
from .evidence import EvidenceBook
from .explain import explain, merge
from .gpu import GpuWaits
from .locks import find_locks
from .messages import add_deliveries, find_messages
from .path import Step, Threads, critical_path
from .queues import queue_entries, queue_stretches, step_entries, tokenize_entry
from .rules import State
from .stages import RequestStages
from .throttling import find_throttling
from .timeline import Timeline, clip, gaps


class ConservationError(AssertionError):
    """The segments of a window do not partition it: a defect of this program, never of the data."""


def attribute(trace: Trace, windows: list[Window]) -> list[WindowReport]:
    """Explain every nanosecond of every window."""
    book = EvidenceBook(trace)
    messages = find_messages(trace.events, trace.strings)
    add_deliveries(messages, trace, windows)
    processes = [trace.tracks[row].pid for row in range(len(trace.tracks))]
    threads = Threads(trace.sched, messages, find_locks(trace.events, book.evidence), processes)
    staged = _staged_tracks(trace, book)
    stages = RequestStages(book)
    waits = GpuWaits(book)
    throttling = find_throttling(trace)
    reports = []

    def follow(part: Window) -> Segments:
        return explain(part, throttling.name(critical_path(part, threads, staged)), stages)

    for window in windows:
        queued = queue_stretches(trace, window.request_id)
        entries = {**tokenize_entry(trace, window), **queue_entries(trace, queued), **step_entries(trace, window)}
        steps = throttling.name(critical_path(window, threads, staged, entries))
        segments = waits.refine(window, explain(window, steps, stages, queued), follow)
        check_partition(window, segments)
        off_path = [explain(window, _off_path_steps(window, steps, book), stages), waits.off_path(window, segments)]
        reports.append(build_window_report(window, segments, merge(off_path), book))
    return reports


def check_partition(window: Window, segments: Segments) -> None:
    """Check that the segments are sorted, contiguous and fill the window.

    Raises:
        ConservationError: they are not.
    """
    ok = (
        len(segments) > 0
        and segments.start_ns[0] == window.start_ns
        and segments.end_ns[-1] == window.end_ns
        and bool(np.all(segments.start_ns[1:] == segments.end_ns[:-1]))
        and bool(np.all(segments.dur_ns > 0))
    )
    if not ok:
        raise ConservationError(f"the segments of {window.label} do not partition it")


def _staged_tracks(trace: Trace, book: EvidenceBook) -> frozenset[int]:
    return frozenset(row for row in trace.tracks.rows(TrackKind.THREAD) if len(book.stages(row)))


def _off_path_steps(window: Window, path: list[Step], book: EvidenceBook) -> list[Step]:
    """Return what the threads of the tree did in the window beside the path: running, and waiting for block I/O."""
    steps = []
    for track in book.trace.tracks.rows(TrackKind.THREAD):
        on_path = [step for step in path if step.track == track]
        taken = Timeline(
            np.array([step.start_ns for step in on_path], np.int64),
            np.array([step.end_ns for step in on_path], np.int64),
            np.zeros(len(on_path), np.int64),
        )
        for state, busy in ((State.RUN, book.running(track)), (State.IO_WAIT, _io_waits(track, book))):
            for start, end in zip(*gaps(clip(busy, window.start_ns, window.end_ns), taken), strict=True):
                steps.append(Step(int(start), int(end), track, window.track, state))
    return sorted(steps)


def _io_waits(track: int, book: EvidenceBook) -> Timeline:
    """Return a thread's waits for block I/O: from a run that ended in one to its wakeup, or to its next run."""
    sched = book.trace.sched
    low, high = np.searchsorted(sched.run_track, [track, track + 1])
    waits = np.flatnonzero(sched.run_out[low : high - 1] == Out.IOWAIT) + low if high > low else np.empty(0, np.int64)
    start, end = sched.run_end_ns[waits], sched.run_start_ns[waits + 1]
    keep = end > start
    return Timeline(start[keep], end[keep], waits[keep])
