"""Recommend what a sweep has shown to be faster, with the gain that was measured, and as a snippet to apply it.

An option is compared with the sweep's first point by the test of `sequential`, at one look: only where the whole
confidence interval lies on the faster side, and by a share worth the trouble, is anything said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .point import Point
from .sequential import SequentialTest, Shift
from .setting import Setting, merge_snippets
from .sweep import Row

MIN_GAIN = 0.03
_LEVEL, _HIGH_LEVEL = 0.05, 0.005
_METRICS = (
    *("gen_latency_s", "concurrent_s", "ttft_steady_s", "ttft_first_s"),
    *("warm_load_real_s", "cold_load_real_s", "load_real_s"),
)
# From this share of the best throughput on, more concurrency adds waiting and nothing else.
_SATURATED = 0.95


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An option that is faster, in which number, by how much at least and likely."""

    point: str
    metric: str
    gain: float
    least_gain: float
    confidence: str  # high, medium
    settings: tuple[Setting, ...]

    @property
    def text(self) -> str:
        """Return it in one line."""
        what = "; ".join(setting.command for setting in self.settings)
        gains = f"{100 * self.gain:.1f} % less {self.metric} (at least {100 * self.least_gain:.1f} %)"
        return f"{self.point}: {gains}, confidence {self.confidence}; {what or 'nothing to set'}"


def recommend(points: Sequence[Point], rows: Sequence[Row]) -> list[Recommendation]:
    """Return the options that beat the first point; of each number the best one, for options that can be applied."""
    found: list[Recommendation] = []
    for metric in _METRICS:
        made = [
            one
            for point in points
            if (rival := _rival(point, points)) is not point
            and (one := _compare(metric, rival, point, rows, n_options=len(points) - 1))
        ]
        if made:
            found.append(max(made, key=lambda one: one.least_gain))
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


def emit(recommendations: Sequence[Recommendation], form: str) -> str:
    """Return the recommendations as a snippet for sysctl.d and tmpfiles.d, a systemd unit or a Kubernetes container."""
    comments = [f"# {one.text}" for one in recommendations] or ["# nothing was measured to be faster"]
    settings = [setting for one in recommendations for setting in one.settings]
    return "\n".join([*comments, *merge_snippets(settings, form)]) + "\n"


def _rival(point: Point, points: Sequence[Point]) -> Point:
    """Return what a point is held against: the first that differs in nothing but what is set; maybe itself."""
    return next(one for one in points if one.request == point.request)


def _compare(metric: str, rival: Point, point: Point, rows: Sequence[Row], n_options: int) -> Recommendation | None:
    before, after = _values(metric, rival, rows), _values(metric, point, rows)
    if not before or not after:
        return None
    for confidence, level in (("high", _HIGH_LEVEL), ("medium", _LEVEL)):
        shift = _shift(before, after, level / n_options)
        if shift.high <= -MIN_GAIN / 2 and shift.estimate <= -MIN_GAIN:
            settings = tuple(one for one in point.settings if one not in rival.settings)
            return Recommendation(point.name, metric, -shift.estimate, -shift.high, confidence, settings)
    return None


def _values(metric: str, point: Point, rows: Sequence[Row]) -> list[float]:
    return [row[metric] for row in rows if row["point"] == point.name and metric in row]


def _shift(before: Sequence[float], after: Sequence[float], level: float) -> Shift:
    return SequentialTest(before, MIN_GAIN, len(after), alpha=level, beta=level).look(after)[1]
