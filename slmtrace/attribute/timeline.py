"""Timelines: disjoint stretches of one thread, each owned by one event. Built from events, laid one over the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.events import NO_EVENT, Ints, SmallInts
from ..model.quality import Issue, Quality

COLUMNS = ("start_ns", "end_ns", "owner")
_EVER = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Sorted, disjoint, non-empty stretches; `owner` is the event row that explains each."""

    start_ns: Ints
    end_ns: Ints
    owner: Ints | SmallInts

    def __len__(self) -> int:
        return len(self.start_ns)

    def at(self, ts_ns: Ints) -> Ints:
        """Return the owner at each of sorted instants, NO_EVENT where there is none.

        A stretch is closed below, open above.
        """
        if not (len(self) and len(ts_ns)):
            return np.full(len(ts_ns), NO_EVENT)
        shown = clip(self, int(ts_ns[0]), int(ts_ns[-1]) + 1)
        owners = np.full(2 * len(shown) + 1, NO_EVENT, np.int64)
        owners[1::2] = shown.owner
        # Looked up is where the stretches lie among the instants, rather than the other way round: they are fewer.
        ends = np.full(len(owners), len(ts_ns))
        ends[:-1:2] = np.searchsorted(ts_ns, shown.start_ns)
        ends[1::2] = np.searchsorted(ts_ns, shown.end_ns)
        ends[1:] -= ends[:-1].copy()
        return np.repeat(owners, ends)


def empty_timeline() -> Timeline:
    """Return a timeline of nothing."""
    none = np.empty(0, np.int64)
    return Timeline(none, none, none)


def without_gaps(timeline: Timeline) -> Timeline:
    """Return a timeline of all time, of which NO_EVENT owns what nobody did."""
    bounds_ns = np.empty(2 * len(timeline) + 2, np.int64)
    bounds_ns[0], bounds_ns[-1] = _EVER.min, _EVER.max
    bounds_ns[1:-1:2], bounds_ns[2:-1:2] = timeline.start_ns, timeline.end_ns
    owner = np.full(len(bounds_ns) - 1, NO_EVENT, np.int32)
    owner[1::2] = timeline.owner
    keep = np.flatnonzero(bounds_ns[1:] > bounds_ns[:-1])
    bounds_ns = np.append(bounds_ns[keep], _EVER.max)
    return Timeline(bounds_ns[:-1], bounds_ns[1:], owner[keep])


def sequence(start_ns: Ints, end_ns: Ints, owner: Ints) -> Timeline:
    """Build a timeline of events that do not nest, sorted by start; one that overlaps its successor is cut there."""
    if not len(start_ns):
        return empty_timeline()
    cut = end_ns.copy()
    np.minimum(cut[:-1], start_ns[1:], out=cut[:-1])
    keep = cut > start_ns
    return Timeline(start_ns[keep], cut[keep], owner[keep])


def nest(start_ns: Ints, end_ns: Ints, owner: Ints, quality: Quality) -> Timeline:
    """Build a timeline of nested events, sorted by (start, -end): the innermost owns each instant.

    An event that outlives the one around it is cut at its parent's end, and counted.
    """
    starts: list[int] = []
    owners: list[int] = []
    stack: list[tuple[int, int]] = []  # (end, owner), outermost first

    def switch_to(ts_ns: int, event: int) -> None:
        if starts and starts[-1] == ts_ns:
            owners[-1] = event
        else:
            starts.append(ts_ns)
            owners.append(event)

    def close_until(ts_ns: int) -> None:
        while stack and stack[-1][0] <= ts_ns:
            ended_ns, _ = stack.pop()
            switch_to(ended_ns, stack[-1][1] if stack else NO_EVENT)

    for begin, finish, event in zip(start_ns.tolist(), end_ns.tolist(), owner.tolist(), strict=True):
        close_until(begin)
        if stack and finish > stack[-1][0]:
            quality.note(Issue.CROSSING_EVENTS)
            finish = stack[-1][0]  # noqa: PLW2901
        if finish > begin:
            stack.append((finish, event))
            switch_to(begin, event)
    close_until(int(end_ns.max()) if len(end_ns) else 0)
    return _from_switches(starts, owners)


def _from_switches(starts: list[int], owners: list[int]) -> Timeline:
    if not starts:
        return empty_timeline()
    start = np.array(starts, np.int64)
    owner = np.array(owners, np.int64)
    end = np.append(start[1:], start[-1])
    keep = (owner != NO_EVENT) & (end > start)
    return Timeline(start[keep], end[keep], owner[keep])


def overlay(above: Timeline, below: Timeline) -> Timeline:
    """Lay one timeline over another: where both have an owner, the upper one's counts."""
    if not (len(above) and len(below)):
        return above if len(above) else below
    shown = gaps(below, above)
    start_ns, end_ns, owner = (np.concatenate([getattr(part, name) for part in (above, shown)]) for name in COLUMNS)
    order = np.argsort(start_ns, kind="stable")
    return Timeline(start_ns[order], end_ns[order], owner[order])


def gaps(span: Timeline, taken: Timeline) -> Timeline:
    """Return the parts of `span` that `taken` does not cover."""
    opens_ns = np.concatenate([[_EVER.min], taken.end_ns])
    closes_ns = np.concatenate([taken.start_ns, [_EVER.max]])
    row, gap = overlaps(span, opens_ns, closes_ns)
    start_ns, end_ns = np.maximum(span.start_ns[row], opens_ns[gap]), np.minimum(span.end_ns[row], closes_ns[gap])
    keep = end_ns > start_ns
    return Timeline(start_ns[keep], end_ns[keep], span.owner[row[keep]])


def overlaps(timeline: Timeline, start_ns: Ints, end_ns: Ints) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which stretches of a timeline meet which of these, sorted and disjoint, as pairs of rows in order."""
    first = np.searchsorted(end_ns, timeline.start_ns, side="right")
    n_met = np.searchsorted(start_ns, timeline.end_ns) - first
    row = np.repeat(np.arange(len(timeline)), n_met)
    return row, np.arange(len(row)) + (first - np.cumsum(n_met) + n_met)[row]


def clip(timeline: Timeline, start_ns: int, end_ns: int) -> Timeline:
    """Return the part of a timeline between two times."""
    low = np.searchsorted(timeline.end_ns, start_ns, side="right")
    high = np.searchsorted(timeline.start_ns, end_ns) if end_ns > start_ns else low
    start, end = timeline.start_ns[low:high], timeline.end_ns[low:high]
    return Timeline(np.maximum(start, start_ns), np.minimum(end, end_ns), timeline.owner[low:high])
