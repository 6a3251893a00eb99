"""Disjoint stretches of time, and how much of other stretches they cover."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..model.events import Ints


class Intervals(NamedTuple):
    """Disjoint stretches in order of time: when each begins, how long it lasts, and how long all before it do."""

    begins_ns: Ints
    dur_ns: Ints
    before_ns: Ints


def intervals(begins_ns: Ints, ends_ns: Ints) -> Intervals:
    """Make intervals of disjoint stretches in order of time."""
    dur_ns = ends_ns - begins_ns
    return Intervals(begins_ns, dur_ns, np.cumsum(dur_ns) - dur_ns)


def covered_ns(by: Intervals, start_ns: Ints, end_ns: Ints) -> Ints:
    """Return how much of each stretch the intervals cover; there is at least one of those."""

    def covered_until(ts_ns: Ints) -> Ints:
        row = np.maximum(np.searchsorted(by.begins_ns, ts_ns, side="right") - 1, 0)
        covered: Ints = by.before_ns[row] + np.clip(ts_ns - by.begins_ns[row], 0, by.dur_ns[row])
        return covered

    return covered_until(end_ns) - covered_until(start_ns)
