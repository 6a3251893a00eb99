"""Clock maps: from bracketed reads of another clock to CLOCK_MONOTONIC, with a bound on the error.

A read says: when the other clock showed `value`, CLOCK_MONOTONIC was between `before` and `after` (Cristian,
"Probabilistic clock synchronization", 1989). The tightest read near the start and near the end fix offset and drift.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

# adjtimex(2) slews a clock by at most 500 ppm, so two clocks of one machine drift apart no faster than that.
MAX_DRIFT_PPB = 500_000
# When the brackets leave the drift less certain than this, assuming none is the better guess.
MAX_DRIFT_UNCERTAINTY_PPB = 100_000


@dataclass(frozen=True, slots=True)
class ClockMap:
    """mono = ts + offset_ns + drift_ppb * (ts - anchor_ns) / 1e9, wrong by at most residual_ns between the reads."""

    offset_ns: int
    drift_ppb: float
    residual_ns: int
    anchor_ns: int = 0  # a time of the other clock

    def apply(self, ts: Ints) -> Ints:
        """Map times of the other clock to CLOCK_MONOTONIC; exact in integers when there is no drift."""
        mapped: Ints = ts + np.int64(self.offset_ns)
        if self.drift_ppb:
            mapped += np.rint((ts - np.int64(self.anchor_ns)) * (self.drift_ppb / 1e9)).astype(np.int64)
        return mapped


class _Read(NamedTuple):
    value_ns: int
    offset_ns: int  # of the bracket's middle
    half_width_ns: int  # how far the true offset may be from that


def fit_clock_map(reads: Ints) -> ClockMap:
    """Fit a map to reads, rows of (before, value, after).

    The residual bounds the error between the first and the last read. When a read contradicts the map (the other clock
    was stepped), the residual covers that too.

    Raises:
        ValueError: there is no read.
    """
    if len(reads) == 0:
        raise ValueError("a clock map needs at least one read")
    reads = np.asarray(reads, np.int64)
    start, end = _tightest_at_both_ends(reads)
    distance_ns = end.value_ns - start.value_ns
    is_drift_known = (start.half_width_ns + end.half_width_ns) * 10**9 <= MAX_DRIFT_UNCERTAINTY_PPB * distance_ns
    if distance_ns and is_drift_known:
        fitted = _fit_drift(start, end, reads[:, 1])
    else:
        fitted = _fit_offset(min(start, end, key=lambda read: read.half_width_ns), reads[:, 1])
    return replace(fitted, residual_ns=max(fitted.residual_ns, _largest_contradiction_ns(fitted, reads)))


def _tightest_at_both_ends(reads: Ints) -> tuple[_Read, _Read]:
    """Return the tightest read of the first half of the span and of the second; the same one when there is but one."""
    before, value, after = reads.T
    width = after - before
    middle = value.min() + (value.max() - value.min()) // 2
    is_late = value > middle
    ends = []
    for is_candidate in (~is_late, is_late if is_late.any() else ~is_late):
        candidates = np.flatnonzero(is_candidate)
        row = candidates[np.argmin(width[candidates])]
        offset_ns = int(before[row]) + int(width[row]) // 2 - int(value[row])
        ends.append(_Read(int(value[row]), offset_ns, (int(width[row]) + 1) // 2))
    return ends[0], ends[1]


def _fit_offset(anchor: _Read, values: Ints) -> ClockMap:
    reach_ns = max(int(values.max()) - anchor.value_ns, anchor.value_ns - int(values.min()))
    residual_ns = anchor.half_width_ns + -(-reach_ns * MAX_DRIFT_PPB // 10**9)
    return ClockMap(anchor.offset_ns, 0.0, residual_ns, anchor.value_ns)


def _fit_drift(start: _Read, end: _Read, values: Ints) -> ClockMap:
    """Draw the line through two reads; what they may be wrong by grows linearly outside of them."""
    distance_ns = end.value_ns - start.value_ns
    drift_ppb = (end.offset_ns - start.offset_ns) * 1e9 / distance_ns
    error_ns = max(start.half_width_ns, end.half_width_ns)
    for value_ns in (int(values.min()), int(values.max())):
        from_start = abs(end.value_ns - value_ns) * start.half_width_ns
        from_end = abs(value_ns - start.value_ns) * end.half_width_ns
        error_ns = max(error_ns, -(-(from_start + from_end) // distance_ns))
    # One more for rounding the drift's share to whole nanoseconds.
    return ClockMap(start.offset_ns, drift_ppb, error_ns + 1, start.value_ns)


def _largest_contradiction_ns(fitted: ClockMap, reads: Ints) -> int:
    """Return how wrong the map may be at a read whose bracket it misses; 0 when it misses none."""
    before, value, after = reads.T
    mapped = fitted.apply(value)
    worst = np.maximum(after - mapped, mapped - before)
    misses = (mapped < before) | (mapped > after)
    return int(worst[misses].max()) if misses.any() else 0
