"""Recommend what a sweep has shown to be faster, with the gain that was measured.

An option is compared with the sweep's first point by the test of `sequential`, at one look: only where the whole
confidence interval lies on the faster side, and by a share worth the trouble, is anything said.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from .point import Point
from .recommendation import Recommendation
from .sequential import SequentialTest, Shift
from .sweep import Row

MIN_GAIN = 0.03
_LEVEL, _HIGH_LEVEL = 0.05, 0.005
_METRICS = (
    *("gen_latency_s", "concurrent_s", "ttft_steady_s", "ttft_first_s"),
    *("warm_load_real_s", "cold_load_real_s", "load_real_s"),
)
# From this share of the best throughput on, more concurrency adds waiting and nothing else.
_SATURATED = 0.95


def recommend(points: Sequence[Point], rows: Sequence[Row]) -> list[Recommendation]:
    """Return the options that beat what they are held against; of each number the best one.

    The chance of a false one is shared among the options that have that number.
    """
    found: list[Recommendation] = []
    for metric in _METRICS:
        pairs = [
            (rival, point)
            for point in points
            if (rival := _rival(point, points)) is not point
            and _values(metric, rival, rows)
            and _values(metric, point, rows)
        ]
        made = [one for pair in pairs if (one := _compare(metric, *pair, rows, n_options=len(pairs)))]
        if made:
            found.append(max(made, key=lambda one: one[0])[1])
    return found


def saturation_point(rows: Sequence[Row]) -> int | None:
    """Return the smallest concurrency that reaches the best throughput; None: no two were measured."""
    rates: dict[int, list[float]] = {}
    for row in rows:
        spent = row.get("concurrent_s") or row.get("sequential_s")
        if "concurrency" in row and spent:
            rates.setdefault(int(row["concurrency"]), []).append(row["n_requests"] / spent)
    if len(rates) < 2:
        return None
    middle = {concurrency: median(values) for concurrency, values in rates.items()}
    return min(one for one, rate in middle.items() if rate >= _SATURATED * max(middle.values()))


def _rival(point: Point, points: Sequence[Point]) -> Point:
    """Return what a point is held against: the first that differs in nothing but what is set; maybe itself."""
    return next(one for one in points if one.request == point.request)


def _compare(
    metric: str, rival: Point, point: Point, rows: Sequence[Row], n_options: int
) -> tuple[float, Recommendation] | None:
    """Return the least gain and what is to be said of it; None: there is none."""
    before, after = _values(metric, rival, rows), _values(metric, point, rows)
    for confidence, level in (("high", _HIGH_LEVEL), ("medium", _LEVEL)):
        shift = _shift(before, after, level / n_options)
        if shift.high <= -MIN_GAIN / 2 and shift.estimate <= -MIN_GAIN:
            reason = f"{-100 * shift.estimate:.1f} % less {metric} (at least {-100 * shift.high:.1f} %)"
            settings = tuple(one for one in point.settings if one not in rival.settings)
            return -shift.high, Recommendation(point.name, reason, confidence, settings)
    return None


def _values(metric: str, point: Point, rows: Sequence[Row]) -> list[float]:
    return [row[metric] for row in rows if row["point"] == point.name and metric in row]


def _shift(before: Sequence[float], after: Sequence[float], level: float) -> Shift:
    return SequentialTest(before, MIN_GAIN, len(after), alpha=level, beta=level).look(after)[1]
