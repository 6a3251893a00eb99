"""Attribute a trace: every window, its critical path, its segments, its sums."""

from __future__ import annotations

import itertools

import numpy as np

from ..model.report import WindowReport
from ..model.segments import Segments
from ..model.trace import Trace, Window
from ..model.tracks import TrackKind
from .breakdown import build_window_report
from .evidence import EvidenceBook
from .explain import explain, explain_blocks
from .gpu import GpuWaits
from .locks import find_locks
from .messages import add_deliveries, find_messages
from .path import Steps, Threads, critical_path
from .queues import behind_others, engine_stays, queue_entries, queue_stretches, step_entries, tokenize_entry
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
    locks = find_locks(trace.events, book.evidence)
    threads = Threads(trace.sched, messages, locks, trace.tracks.pids().tolist())
    staged = _staged_tracks(trace, book)
    stages = RequestStages(book)
    waits = GpuWaits(book)
    throttling = find_throttling(trace)
    stays = engine_stays(trace)
    reports = []

    def follow(part: Window) -> Segments:
        return explain(part, throttling.name(critical_path(part, threads, staged)), stages)

    for window in windows:
        queued = queue_stretches(trace, window.request_id)
        entries = {**tokenize_entry(trace, window), **queue_entries(trace, queued), **step_entries(trace, window)}
        steps = throttling.name(critical_path(window, threads, staged, entries))
        others = behind_others(queued, stays, trace.strings.intern(window.request_id))
        segments = waits.refine(window, explain(window, steps, stages, others), follow)
        check_partition(window, segments)
        off_path = explain_blocks(window, _off_path_steps(window, steps, book), stages)
        beside = itertools.chain(itertools.chain.from_iterable(off_path), waits.off_path(window, segments))
        reports.append(build_window_report(window, segments, beside, book))
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


def _off_path_steps(window: Window, path: Steps, book: EvidenceBook) -> Steps:
    """Return what the threads of the tree did in the window beside the path: running, and waiting for block I/O."""
    parts = [np.empty((5, 0), np.int64)]
    for track in book.trace.tracks.rows(TrackKind.THREAD):
        busy = clip(book.busy(track), window.start_ns, window.end_ns)
        if len(busy):
            on_path = path.where(path.track == track)
            beside = gaps(busy, Timeline(on_path.start_ns, on_path.end_ns, on_path.state))
            of_thread, anchor = np.full(len(beside), track), np.full(len(beside), window.track)
            parts.append(np.stack([beside.start_ns, beside.end_ns, of_thread, anchor, beside.owner]))
    return Steps(*np.concatenate(parts, axis=1))
