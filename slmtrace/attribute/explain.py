"""From steps of the critical path to segments: cut each step where its evidence or its stage changes, and name it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..model.events import NO_EVENT, NO_STAGE, Ints, SmallInts, distinct_rows, distinct_times
from ..model.segments import Segments, empty_segments
from ..model.taxonomy import Cause, Stage, WindowKind
from ..model.trace import Window
from .evidence import EvidenceBook, next_stage, stage_at
from .path import Steps
from .rules import Evidence, State, cause_of
from .stages import RequestStages
from .timeline import Timeline, clip, empty_timeline, overlaps, overlay

# By State: whether a thread's evidence is looked up; in the others it only waited for a CPU.
_HAS_EVIDENCE = np.ones(max(State) + 1, np.bool_)
_HAS_EVIDENCE[[State.RUNNABLE, State.THROTTLED, State.SPAWN]] = False
# By Stage: what running is, when nothing finer is known.
_ON_CPU_BY_STAGE = np.zeros(256, np.uint8)
for _stage in Stage:
    _ON_CPU_BY_STAGE[_stage] = _stage.info.on_cpu
# As many steps at a time as leave the arrays small enough for the caches.
_BLOCK_STEPS = 1 << 14
_CAUSE_BY_VALUE = {int(cause): cause for cause in Cause}


def explain(window: Window, steps: Steps, stages: RequestStages, queued: Timeline | None = None) -> Segments:
    """Return the segments of the steps, sorted by time; neighbours that say the same are one.

    While the window's request was `queued` behind others, the path goes through the engine's work on those: whatever
    that was, to this request it was the queue.
    """
    return merge(merge(parts) for parts in explain_blocks(window, steps, stages, queued))


def explain_blocks(
    window: Window, steps: Steps, stages: RequestStages, queued: Timeline | None = None
) -> Iterator[list[Segments]]:
    """Yield the segments of some steps after the other, of each thread apart; neighbours may say the same."""
    tracks = distinct_rows(np.concatenate([steps.track, steps.anchor]))[0].tolist()
    stages_by_track = {track: stages.of(window, track) for track in tracks}
    for first in range(0, len(steps), _BLOCK_STEPS):
        block = steps.where(slice(first, first + _BLOCK_STEPS))
        order = np.lexsort((block.anchor, block.track))
        is_next = (np.diff(block.track[order]) != 0) | (np.diff(block.anchor[order]) != 0)
        groups = np.split(order, np.flatnonzero(is_next) + 1)
        yield [
            _explain_thread(window, block.where(group), stages, stages_by_track, queued or empty_timeline())
            for group in groups
        ]


def _explain_thread(
    window: Window, steps: Steps, stages: RequestStages, stages_by_track: dict[int, Timeline], queued: Timeline
) -> Segments:
    """Return the segments of steps of one thread and one anchor."""
    span, track, anchor = Timeline(steps.start_ns, steps.end_ns, steps.state), int(steps.track[0]), int(steps.anchor[0])
    book, step_ns = stages.book, stages.first_step_ns(window.request_id)
    doing, named, named_around = (
        clip(timeline, int(span.start_ns[0]), int(span.end_ns[-1]))
        for timeline in (book.stages(track), book.named_causes(track), book.named_causes(anchor))
    )
    own, other = stages_by_track[track], stages_by_track[anchor]
    named = overlay(named, named_around)
    start, end, state = _cut(span, (doing, own, other, named, queued), step_ns)
    stage = _stage_of(window, start, own, other, step_ns)
    # What a thread did for another request is what it was, whatever stage the window's request was in meanwhile.
    did = stage_at(doing, start)
    did = np.where(did == NO_STAGE, stage, did)
    named_cause = named.at(start)
    on_cpu = np.where(named_cause == NO_EVENT, _ON_CPU_BY_STAGE[did], named_cause)
    if book.is_compiler(track):
        on_cpu = np.where((named_cause == NO_EVENT) & (did != Stage.COMPILE), Cause.JIT_COMPILE, on_cpu)
    waiting = queued.at(start)
    is_queued = waiting != NO_EVENT
    # Evidence cuts finest by far, so it comes last.
    innermost = book.innermost(track)
    row, piece = overlaps(Timeline(start, end, state), innermost.start_ns, innermost.end_ns)
    event = np.where((_HAS_EVIDENCE[state] & ~is_queued)[row], innermost.owner[piece], waiting.astype(np.int32)[row])
    cause = _cause_of(state.astype(np.int32) << 16 | on_cpu.astype(np.int32), row, event, book)
    return Segments(
        np.maximum(start[row], innermost.start_ns[piece]),
        np.minimum(end[row], innermost.end_ns[piece]),
        np.full(len(row), track, np.int32),
        np.where(is_queued, np.uint8(Stage.QUEUE), stage)[row],
        np.where(is_queued[row], np.uint8(Cause.ENGINE_QUEUE), cause),
        event,
    )


def _cut(span: Timeline, timelines: Sequence[Timeline], at_ns: int) -> tuple[Ints, Ints, Ints]:
    """Cut the stretches of `span` at an instant and every bound of the timelines; return starts, ends and owners."""
    start_ns, end_ns = int(span.start_ns[0]), int(span.end_ns[-1])
    shown = [clip(timeline, start_ns, end_ns) for timeline in timelines]
    edges = [edge for timeline in (span, *shown) for edge in (timeline.start_ns, timeline.end_ns)]
    cuts: Ints = distinct_times(np.concatenate([*edges, [min(max(at_ns, start_ns), end_ns)]]))
    owner = span.at(cuts[:-1])
    inside = np.flatnonzero(owner != NO_EVENT)
    return cuts[inside], cuts[inside + 1], owner[inside]


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


def _cause_of(known: SmallInts, row: NDArray[np.intp], event: Ints, book: EvidenceBook) -> NDArray[np.uint8]:
    """Return the cause of each piece of the stretches `row`, given its event.

    `known` are the state of each stretch, and what running in it is when nothing finer is known.
    """
    evidence = np.where(event == NO_EVENT, Evidence.NONE, book.evidence[event] if len(book.evidence) else 0)
    keys = known[row] | evidence.astype(np.int32) << 8
    distinct, inverse = distinct_rows(keys)
    causes = [cause_of(State(k >> 16), Evidence(k >> 8 & 0xFF), _CAUSE_BY_VALUE[k & 0xFF]) for k in distinct.tolist()]
    return np.array(causes, np.uint8)[inverse]


def merge(parts: Iterable[Segments]) -> Segments:
    """Join segments in order of time; neighbours that say the same become one.

    Column by column, and the parts go as the whole comes: no more than one column is there twice.
    """
    pieces: dict[str, list[NDArray[np.integer]]] = {column.name: [] for column in fields(Segments)}
    for part in parts:
        for name, column in pieces.items():
            column.append(getattr(part, name))
    if not pieces["event"]:
        return empty_segments()
    joined = {name: np.concatenate(pieces.pop(name)) for name in tuple(pieces)}
    if np.any(joined["start_ns"][1:] < joined["start_ns"][:-1]):
        order = np.argsort(joined["start_ns"], kind="stable")
        joined = {name: joined.pop(name)[order] for name in tuple(joined)}
    is_next = joined["start_ns"][1:] != joined["end_ns"][:-1]
    for name in ("track", "stage", "cause", "event"):
        is_next |= joined[name][1:] != joined[name][:-1]
    is_first, is_last = (np.ones(len(joined["event"]), np.bool_) for _ in range(2))
    is_first[1:], is_last[:-1] = is_next, is_next
    return Segments(**{name: joined.pop(name)[is_last if name == "end_ns" else is_first] for name in tuple(joined)})
