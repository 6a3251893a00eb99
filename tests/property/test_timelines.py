"""Timelines against brute force: every instant of a small clock, one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.attribute.folds import place_folds
from slmtrace.attribute.timeline import Timeline, clip, gaps, nest, overlay, sequence
from slmtrace.model.quality import Issue, Quality

CLOCK = np.arange(0, 60, dtype=np.int64)
intervals = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15)), max_size=12)


def columns(rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts, ends and owners, sorted as a track's events are."""
    ordered = sorted((start, -(start + dur)) for start, dur in rows)
    start = np.array([start for start, _ in ordered], np.int64)
    end = np.array([-end for _, end in ordered], np.int64)
    return start, end, np.arange(len(ordered), dtype=np.int64)


def assert_disjoint(timeline: Timeline) -> None:
    assert (timeline.end_ns > timeline.start_ns).all()
    assert (timeline.start_ns[1:] >= timeline.end_ns[:-1]).all()


@settings(max_examples=200, deadline=None)
@given(intervals)
def test_the_innermost_event_owns_each_instant(rows: list[tuple[int, int]]) -> None:
    start, end, owner = columns(rows)
    stack: list[tuple[int, int]] = []
    cut = {}
    for s, e, o in zip(start.tolist(), end.tolist(), owner.tolist(), strict=True):
        stack = [(until, event) for until, event in stack if until > s]
        cut[o] = min([e, *(until for until, _ in stack)])
        stack.append((cut[o], o))

    timeline = nest(start, end, owner, Quality())

    expected = [max((o for o in cut if start[o] <= t < cut[o]), default=-1) for t in CLOCK.tolist()]
    assert timeline.at(CLOCK).tolist() == expected
    assert_disjoint(timeline)


@settings(max_examples=200, deadline=None)
@given(intervals, intervals)
def test_an_overlay_shows_the_upper_timeline_where_it_has_one(
    above: list[tuple[int, int]], below: list[tuple[int, int]]
) -> None:
    upper, lower = sequence(*columns(above)), sequence(*columns(below))

    merged = overlay(upper, lower)

    shown = upper.at(CLOCK)
    assert merged.at(CLOCK).tolist() == np.where(shown >= 0, shown, lower.at(CLOCK)).tolist()
    assert_disjoint(merged)


@settings(max_examples=200, deadline=None)
@given(intervals, intervals)
def test_gaps_are_the_span_without_what_is_taken(span: list[tuple[int, int]], taken: list[tuple[int, int]]) -> None:
    whole, busy = sequence(*columns(span)), sequence(*columns(taken))

    free = gaps(whole, busy)

    assert free.at(CLOCK).tolist() == np.where(busy.at(CLOCK) < 0, whole.at(CLOCK), -1).tolist()
    assert_disjoint(free)


@settings(max_examples=200, deadline=None)
@given(intervals, st.integers(0, 60), st.integers(0, 60))
def test_a_clip_is_the_part_between_two_times(rows: list[tuple[int, int]], start_ns: int, end_ns: int) -> None:
    whole = sequence(*columns(rows))

    part = clip(whole, start_ns, end_ns)

    inside = [start_ns <= ts_ns < end_ns for ts_ns in CLOCK.tolist()]
    assert part.at(CLOCK).tolist() == np.where(inside, whole.at(CLOCK), -1).tolist()
    assert_disjoint(part)


@settings(max_examples=300, deadline=None)
@given(intervals, st.lists(st.tuples(st.integers(0, 40), st.integers(1, 15), st.integers(0, 15)), max_size=8))
def test_folds_keep_their_sums_wherever_there_is_room(
    free_rows: list[tuple[int, int]], folds: list[tuple[int, int, int]]
) -> None:
    free = sequence(*columns(free_rows))
    first = np.array([f for f, _, _ in folds], np.int64)
    last = np.array([f + length for f, length, _ in folds], np.int64)
    work = np.array([w for _, _, w in folds], np.int64)
    quality = Quality()

    placed = place_folds(first, last, work, np.arange(len(folds), dtype=np.int64), free, quality)

    assert_disjoint(placed)
    assert (free.at(placed.start_ns) >= 0).all()
    done = np.bincount(placed.owner, weights=placed.end_ns - placed.start_ns, minlength=len(folds))
    assert (done <= work).all()
    for event, start, end in zip(placed.owner.tolist(), placed.start_ns.tolist(), placed.end_ns.tolist(), strict=True):
        assert first[event] <= start < end <= last[event]
    assert quality.counts[Issue.FOLD_OVERFLOW] == (work - done).sum()
    # A fold alone is cut only where its own stretch has too little room.
    if len(folds) == 1:
        room = int(((free.at(CLOCK) >= 0) & (first[0] <= CLOCK) & (last[0] > CLOCK)).sum())
        assert done[0] == min(work[0], room)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9), st.integers(1, 9)), max_size=8))
def test_the_fold_that_must_be_done_first_goes_first(folds: list[tuple[int, int, int]]) -> None:
    first, last, work = np.array([(f, f + length, w) for f, length, w in folds], np.int64).reshape(-1, 3).T
    free = Timeline(CLOCK[:1], CLOCK[-1:] + 1, CLOCK[:1])

    placed = place_folds(first, last, work, np.arange(len(folds), dtype=np.int64), free, Quality())

    left, shown = work.tolist(), []
    for now in CLOCK.tolist():
        ready = [(last[n], first[n], n) for n in range(len(folds)) if left[n] and first[n] <= now < last[n]]
        shown.append(min(ready)[2] if ready else -1)
        if ready:
            left[shown[-1]] -= 1
    assert placed.at(CLOCK).tolist() == shown
