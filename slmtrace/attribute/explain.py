"""From steps of the critical path to segments: cut each step where its evidence or its stage changes, and name it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..model.events import NO_EVENT, NO_STAGE, Ints, distinct_rows, distinct_times
from ..model.segments import Segments, empty_segments
from ..model.taxonomy import Cause, Stage, WindowKind
from ..model.trace import Window
from .evidence import EvidenceBook, next_stage, stage_at, stage_on_cpu
from .path import Steps
from .rules import Evidence, State, cause_of
from .stages import RequestStages
from .timeline import Timeline, clip, empty_timeline, overlay

# By State: whether a thread's evidence is looked up; in the others it only waited for a CPU.
_HAS_EVIDENCE = np.ones(max(State) + 1, np.bool_)
_HAS_EVIDENCE[[State.RUNNABLE, State.THROTTLED, State.SPAWN]] = False
# As many steps at a time as leave the arrays small enough for the caches.
_BLOCK_STEPS = 1 << 14
_CAUSE_BY_VALUE = {int(cause): cause for cause in Cause}


def explain(window: Window, steps: Steps, stages: RequestStages, queued: Timeline | None = None) -> Segments:
    """Return the segments of the steps, sorted by time; neighbours that say the same are one.

    While the window's request was `queued` behind others, the path goes through the engine's work on those: whatever
    that was, to this request it was the queue.
    """
    tracks = np.unique(np.concatenate([steps.track, steps.anchor])).tolist()
    stages_by_track = {track: stages.of(window, track) for track in tracks}
    parts = []
    for first in range(0, len(steps), _BLOCK_STEPS):
        block = steps.where(np.arange(first, min(first + _BLOCK_STEPS, len(steps))))
        order = np.lexsort((block.anchor, block.track))
        is_next = (np.diff(block.track[order]) != 0) | (np.diff(block.anchor[order]) != 0)
        for group in np.split(order, np.flatnonzero(is_next) + 1):
            parts.append(
                _explain_thread(window, block.where(group), stages, stages_by_track, queued or empty_timeline())
            )
    return merge(parts)


def _explain_thread(
    window: Window, steps: Steps, stages: RequestStages, stages_by_track: dict[int, Timeline], queued: Timeline
) -> Segments:
    """Return the segments of steps of one thread and one anchor."""
    span, track, anchor = Timeline(steps.start_ns, steps.end_ns, steps.state), int(steps.track[0]), int(steps.anchor[0])
    book = stages.book
    innermost, doing, named, named_around = (
        clip(timeline, int(span.start_ns[0]), int(span.end_ns[-1]))
        for timeline in (book.innermost(track), book.stages(track), book.named_causes(track), book.named_causes(anchor))
    )
    own, other = stages_by_track[track], stages_by_track[anchor]
    named = overlay(named, named_around)
    start, end, state = _cut(span, (innermost, doing, own, other, named, queued))
    event = np.where(_HAS_EVIDENCE[state], innermost.at(start), NO_EVENT)
    stage = _stage_of(window, start, own, other, stages.first_step_ns(window.request_id))
    # What a thread did for another request is what it was, whatever stage the window's request was in meanwhile.
    did = stage_at(doing, start)
    did = np.where(did == NO_STAGE, stage, did).astype(np.uint8)
    named_cause = named.at(start)
    on_cpu = np.where(named_cause == NO_EVENT, stage_on_cpu()[did], named_cause)
    if book.is_compiler(track):
        on_cpu = np.where((named_cause == NO_EVENT) & (did != Stage.COMPILE), Cause.JIT_COMPILE, on_cpu)
    cause = _cause_of(state, event, on_cpu, book)
    waiting = queued.at(start)
    is_queued = waiting != NO_EVENT
    event = np.where(is_queued, waiting, event)
    stage = np.where(is_queued, Stage.QUEUE, stage).astype(np.uint8)
    cause = np.where(is_queued, Cause.ENGINE_QUEUE, cause).astype(np.uint8)
    return Segments(start, end, np.full(len(start), track, np.int32), stage, cause, event)


def _cut(span: Timeline, timelines: Sequence[Timeline]) -> tuple[Ints, Ints, Ints]:
    """Cut the stretches of `span` at every bound of the timelines; return the starts, the ends and the owners."""
    shown = [clip(timeline, int(span.start_ns[0]), int(span.end_ns[-1])) for timeline in timelines]
    edges = [edge for timeline in (span, *shown) for edge in (timeline.start_ns, timeline.end_ns)]
    cuts: Ints = distinct_times(np.concatenate(edges))
    owner = span.at(cuts[:-1])
    inside = owner != NO_EVENT
    return cuts[:-1][inside], cuts[1:][inside], owner[inside]


def _stage_of(window: Window, ts_ns: Ints, own: Timeline, anchor: Timeline, first_step_ns: int) -> NDArray[np.uint8]:
    """Return the stage of each stretch: the thread's own, else its anchor's, else the window's ground stage."""
    # Between two stages of a request, a thread is on its way to its next one; after the last, it delivers. Of a thread
    # that never had one, as another client's, it is known whether the engine had begun.
    if window.kind is WindowKind.LOAD:
        ways, ground = [partial(stage_at, own), partial(stage_at, anchor)], np.full(len(ts_ns), Stage.PROCESS_START)
    else:
        now_or_next = (stage_at, partial(next_stage, end_ns=window.end_ns))
        ways = [partial(find, timeline) for timeline in (own, anchor) for find in now_or_next]
        ground = np.where(ts_ns < first_step_ns, Stage.RECEIVE, Stage.DELIVER)
    stage = np.full(len(ts_ns), NO_STAGE, np.uint8)
    for find in ways:
        unknown = np.flatnonzero(stage == NO_STAGE)
        stage[unknown] = find(ts_ns[unknown])
    return np.where(stage == NO_STAGE, ground, stage).astype(np.uint8)


def _cause_of(state: Ints, event: Ints, on_cpu: Ints, book: EvidenceBook) -> NDArray[np.uint8]:
    """Return the cause of each stretch; `on_cpu` is what running in it is, when nothing finer is known."""
    evidence = np.where(event == NO_EVENT, Evidence.NONE, book.evidence[event] if len(book.evidence) else 0)
    key = (state << 16) | (evidence.astype(np.int64) << 8) | on_cpu
    distinct, inverse = distinct_rows(key)
    causes = [cause_of(State(k >> 16), Evidence(k >> 8 & 0xFF), _CAUSE_BY_VALUE[k & 0xFF]) for k in distinct.tolist()]
    return np.array(causes, np.uint8)[inverse]


def merge(parts: Sequence[Segments]) -> Segments:
    """Join segments in order of time; neighbours that say the same become one."""
    if not any(len(part) for part in parts):
        return empty_segments()
    columns = ("start_ns", "end_ns", "track", "stage", "cause", "event")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns}
    order = np.argsort(joined["start_ns"], kind="stable")
    joined = {name: column[order] for name, column in joined.items()}
    same = np.ones(len(order), bool)
    same[:1] = False
    for name in ("track", "stage", "cause", "event"):
        same[1:] &= joined[name][1:] == joined[name][:-1]
    same[1:] &= joined["start_ns"][1:] == joined["end_ns"][:-1]
    first = np.flatnonzero(~same)
    last = np.append(first[1:], len(order)) - 1
    return Segments(
        joined["start_ns"][first],
        joined["end_ns"][last],
        *(joined[name][first] for name in ("track", "stage", "cause", "event")),
    )
