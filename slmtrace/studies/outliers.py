"""Which nodes of a fleet are unlike others of their kind, in which phase: medians and MAD, no assumption of shape.

A node is an outlier in a number if it lies far from the median of its kind in units of the MAD (scaled to a standard
deviation; Iglewicz and Hoaglin, "How to Detect and Handle Outliers"), on the worse side, and by a share that matters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.taxonomy import Cause, Phase

Floats = NDArray[np.float64]
MIN_NODES, MIN_Z, MIN_SHARE = 4, 5.0, 0.15
_SCALE = 1.4826
# Of few values the MAD is too small on average (Croux and Rousseeuw, COMPSTAT 1992, by the number of values).
_FEW = {4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}
_WINDOW_OF = {
    "cold_load_real_s": "cold load",
    "warm_load_real_s": "warm load",
    "ttft_first_s": "first ttft",
    "ttft_steady_s": "later ttft",
}
_HIGHER_IS_BETTER = ("tokens_per_second",)


@dataclass(frozen=True, slots=True)
class KindSummary:
    """The nodes of one kind: for each number the median and the MAD."""

    sku: str
    n_nodes: int
    middle: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Outlier:
    """A node, the number in which it is worst, how far off, and the phase and cause that made it so."""

    node: str
    sku: str
    metric: str
    value: float
    median: float
    z: float
    where: str  # phase.cause, or the phase alone; '': no window explains the number

    @property
    def factor(self) -> float:
        """Return the value as a multiple of the median."""
        return self.value / self.median if self.median else float("inf")


@dataclass(frozen=True, slots=True)
class FleetComparison:
    """What a fleet is like. `badness` has for each node with a certificate its z in each number; worse is positive."""

    kinds: list[KindSummary]
    outliers: list[Outlier]
    failed: list[tuple[str, str]]  # node, the checks of its certificate that failed
    missing: list[tuple[str, str, str]]  # node, status, reason
    metrics: list[str]
    nodes: list[str]
    badness: Floats


def compare_fleet(columns: Mapping[str, Sequence[Any]]) -> FleetComparison:
    """Compare each node with the others of its kind, the worst first."""
    status = np.array(columns["status"], dtype=object)
    is_ok = status == "ok"
    nodes = np.array(columns["node"], dtype=object)
    skus = np.array(columns["sku"], dtype=object)[is_ok]
    numbers = {name: _numbers(values)[is_ok] for name, values in columns.items() if _is_numeric(values)}
    metrics = [name for name in numbers if name in _WINDOW_OF or name in _HIGHER_IS_BETTER or "_per_second" in name]
    badness = np.zeros((int(is_ok.sum()), len(metrics)))
    kinds, outliers = [], []
    for sku in sorted(set(skus.tolist())):
        rows = np.flatnonzero(skus == sku)
        middle = {name: _middle(values[rows]) for name, values in numbers.items()}
        kinds.append(KindSummary(sku, len(rows), {name: middle[name] for name in metrics}))
        if len(rows) < MIN_NODES:
            continue
        z = {name: _z(values[rows], middle[name]) for name, values in numbers.items()}
        badness[rows] = np.column_stack([_sign(name) * z[name] for name in metrics])
        outliers += _outliers(nodes[is_ok][rows], sku, metrics, numbers, rows, middle, z)
    reasons = [str(reason or "") for reason in columns.get("reason", [""] * len(nodes))]
    is_failed = is_ok & (np.array(columns["verdict"], dtype=object) == "fail")
    return FleetComparison(
        kinds=kinds,
        outliers=sorted(outliers, key=lambda one: (-one.z, one.node)),
        failed=[(str(nodes[n]), reasons[n]) for n in np.flatnonzero(is_failed).tolist()],
        missing=[(str(nodes[n]), str(status[n]), reasons[n]) for n in np.flatnonzero(~is_ok).tolist()],
        metrics=metrics,
        nodes=[str(node) for node in nodes[is_ok]],
        badness=badness,
    )


def _outliers(
    nodes: Any,
    sku: str,
    metrics: Sequence[str],
    numbers: Mapping[str, Floats],
    rows: NDArray[np.int64],
    middle: Mapping[str, tuple[float, float]],
    z: Mapping[str, Floats],
) -> list[Outlier]:
    """Return for each node off in any number the one in which it is most."""
    bad = np.column_stack([_sign(name) * z[name] for name in metrics])
    shares = np.column_stack([_excess(name, numbers[name][rows], middle[name][0]) for name in metrics])
    bad = np.where((bad >= MIN_Z) & (shares >= MIN_SHARE), bad, 0.0)
    found = []
    for row in np.flatnonzero(bad.max(axis=1) > 0).tolist():
        metric = metrics[int(bad[row].argmax())]
        found.append(
            Outlier(
                node=str(nodes[row]),
                sku=sku,
                metric=metric,
                value=float(numbers[metric][rows][row]),
                median=middle[metric][0],
                z=float(bad[row].max()),
                where=_grown(_window_of(metric, bad[row], metrics), row, numbers, rows),
            )
        )
    return found


def _window_of(metric: str, bad: Floats, metrics: Sequence[str]) -> str:
    """Return the window that explains a number: its own, or that of the worst time of the same node."""
    if metric in _WINDOW_OF:
        return _WINDOW_OF[metric]
    timed = [(float(bad[n]), name) for n, name in enumerate(metrics) if name in _WINDOW_OF]
    worst = max(timed, default=(0.0, ""))
    return _WINDOW_OF[worst[1]] if worst[0] > 0 else ""


def _grown(window: str, row: int, numbers: Mapping[str, Floats], rows: NDArray[np.int64]) -> str:
    """Return the phase that has most of what the window takes longer than the median of the kind.

    With it comes the cause that has most of the phase, if that is at least half.
    """

    def growth(name: str) -> float:
        # A certificate lists only the causes that it met.
        seconds = np.nan_to_num(numbers[f"{window}.{name}_s"][rows])
        return float(seconds[row] - np.median(seconds))

    phases = {phase: growth(phase.label) for phase in Phase if f"{window}.{phase.label}_s" in numbers}
    if not phases:
        return ""
    phase = max(phases, key=lambda one: phases[one])
    names = [f"{phase.label}.{cause.label}" for cause in Cause if cause.phase is phase]
    causes = {name: growth(name) for name in names if f"{window}.{name}_s" in numbers}
    return max(
        (name for name, grown in causes.items() if grown >= phases[phase] / 2),
        key=lambda name: causes[name],
        default=phase.label,
    )


def _excess(name: str, values: Floats, median: float) -> Floats:
    """Return how much worse than the median each value is, as a share of the better of both."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = values / median if _sign(name) > 0 else median / values
    share: Floats = np.nan_to_num(ratio - 1, nan=0.0, posinf=1e9)
    return share


def _middle(values: Floats) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0, 0.0
    median = float(np.median(known))
    return median, float(np.median(np.abs(known - median)))


def _z(values: Floats, middle: tuple[float, float]) -> Floats:
    median, mad = middle
    # Equal values have no spread at all; half a percent of the median is below any timer's noise.
    n = int(np.count_nonzero(~np.isnan(values)))
    spread = max(_SCALE * _FEW.get(n, n / max(n - 0.8, 0.2)) * mad, 0.005 * abs(median), 1e-12)
    z: Floats = np.nan_to_num((values - median) / spread)
    return z


def _sign(name: str) -> float:
    return -1.0 if "per_second" in name else 1.0


def _is_numeric(values: Sequence[Any]) -> bool:
    return any(isinstance(value, int | float) for value in values[:100]) or any(
        isinstance(value, int | float) for value in values
    )


def _numbers(values: Sequence[Any]) -> Floats:
    return np.array([value if isinstance(value, int | float) else np.nan for value in values], np.float64)
