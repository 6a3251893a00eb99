"""Compare reports window by window: phases, stages and causes, exactly.

Of repeats, each side is represented by the run whose window has the median length: one that happened, so its parts sum
to its total, and the differences of two such runs do too. The other repeats say how far each number moves by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ...model.report import CauseShare, Report, WindowReport
from ...model.taxonomy import Cause, Phase, Stage, WindowKind
from ..summary import DETAIL_LISTS, detail_rows
from .unlike import Unlike, find_unlike


@dataclass(frozen=True, slots=True)
class Amount:
    """One side's time: of the representative run, and its range over the repeats."""

    ns: int
    low_ns: int
    high_ns: int
    count: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Movement:
    """One number on both sides. `where` names what moved most inside it, where that is known."""

    name: str
    a: Amount
    b: Amount
    phase: Phase | None = None
    where: str = ""

    @property
    def delta_ns(self) -> int:
        """Return B - A."""
        return self.b.ns - self.a.ns

    @property
    def is_separate(self) -> bool:
        """Say whether no repeat of one side lies within the range of the other."""
        return self.a.high_ns < self.b.low_ns or self.b.high_ns < self.a.low_ns

    @property
    def noise_ns(self) -> int:
        """Return how far the number moves between repeats of one side, the larger of both."""
        return max(self.a.high_ns - self.a.low_ns, self.b.high_ns - self.b.low_ns)


@dataclass(frozen=True, slots=True)
class WindowComparison:
    """One window on both sides. The deltas of phases, of stages and of causes each sum to the total's."""

    label: str
    kind: WindowKind
    index: int
    total: Movement
    phases: list[Movement]
    stages: list[Movement]
    causes: list[Movement]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What moved from A to B. `unmatched` names windows that some run does not have."""

    n_repeats: int
    a: Report
    b: Report
    unlike: list[Unlike]
    windows: list[WindowComparison]
    unmatched: list[str]

    @property
    def has_noise(self) -> bool:
        """Say whether there are repeats to tell a change from noise."""
        return self.n_repeats > 1


def compare(runs_a: Sequence[Report], runs_b: Sequence[Report]) -> Comparison:
    """Compare as many runs of A as of B. Exchanging the sides negates every delta."""
    windows_a, windows_b = [_by_key(run) for run in runs_a], [_by_key(run) for run in runs_b]
    everywhere = set.intersection(*map(set, [*windows_a, *windows_b]))
    somewhere = set().union(*windows_a, *windows_b)
    return Comparison(
        n_repeats=len(runs_a),
        a=runs_a[0],
        b=runs_b[0],
        unlike=find_unlike(runs_a, runs_b),
        windows=[
            _compare_window([run[key] for run in windows_a], [run[key] for run in windows_b])
            for key in sorted(everywhere)
        ],
        unmatched=[_missing(key, windows_a, windows_b) for key in sorted(somewhere - everywhere)],
    )


_Key = tuple[WindowKind, int]


def _by_key(report: Report) -> dict[_Key, WindowReport]:
    return {(window.kind, window.index): window for window in report.windows}


def _missing(key: _Key, runs_a: list[dict[_Key, WindowReport]], runs_b: list[dict[_Key, WindowReport]]) -> str:
    missing = [side for side, runs in (("A", runs_a), ("B", runs_b)) if any(key not in run for run in runs)]
    kind, index = key
    label = kind.label if kind is WindowKind.LOAD else f"{kind.label} {index}"
    return f"{label} is missing in {' and '.join(missing)}"


def _compare_window(runs_a: list[WindowReport], runs_b: list[WindowReport]) -> WindowComparison:
    stages = sorted({share.stage for run in (*runs_a, *runs_b) for share in run.stages})
    causes = sorted(
        {share.cause for run in (*runs_a, *runs_b) for share in run.causes}, key=lambda one: (one.phase, one)
    )
    return WindowComparison(
        label=runs_a[0].label,
        kind=runs_a[0].kind,
        index=runs_a[0].index,
        total=_movement("total", lambda run: run.total_ns, runs_a, runs_b),
        phases=[_movement(phase.label, partial(_phase_ns, phase), runs_a, runs_b, phase) for phase in Phase],
        stages=[_movement(stage.label, partial(_stage_ns, stage), runs_a, runs_b) for stage in stages],
        causes=[_cause_movement(cause, runs_a, runs_b) for cause in causes],
    )


def _median_run(runs: list[WindowReport]) -> WindowReport:
    return sorted(runs, key=lambda run: run.total_ns)[(len(runs) - 1) // 2]


def _movement(
    name: str,
    value: Callable[[WindowReport], int],
    runs_a: list[WindowReport],
    runs_b: list[WindowReport],
    phase: Phase | None = None,
) -> Movement:
    return Movement(name, _amount(value, runs_a), _amount(value, runs_b), phase)


def _amount(value: Callable[[WindowReport], int], runs: list[WindowReport]) -> Amount:
    values = [value(run) for run in runs]
    return Amount(value(_median_run(runs)), min(values), max(values))


def _phase_ns(phase: Phase, window: WindowReport) -> int:
    return window.phases.get(phase, 0)


def _stage_ns(stage: Stage, window: WindowReport) -> int:
    return sum(share.ns for share in window.stages if share.stage is stage)


def _cause_movement(cause: Cause, runs_a: list[WindowReport], runs_b: list[WindowReport]) -> Movement:
    where = _moved_most(_share(cause, _median_run(runs_a)), _share(cause, _median_run(runs_b)))
    name = f"{cause.phase.label}.{cause.label}"
    return Movement(name, _cause_amount(cause, runs_a), _cause_amount(cause, runs_b), cause.phase, where)


def _cause_amount(cause: Cause, runs: list[WindowReport]) -> Amount:
    middle = _share(cause, _median_run(runs))
    amount = _amount(lambda run: _share(cause, run).ns, runs)
    return replace(amount, count=middle.count, size_bytes=middle.size_bytes)


def _share(cause: Cause, window: WindowReport) -> CauseShare:
    return next((share for share in window.causes if share.cause is cause), CauseShare(cause, 0, 0, 0, {}))


def _moved_most(a: CauseShare, b: CauseShare) -> str:
    """Return the file, package, function or range whose time in the cause moved most; '' if none did."""
    for key in DETAIL_LISTS:
        before, after = _ns_by_name(a, key), _ns_by_name(b, key)
        moved = {name: abs(after.get(name, 0) - before.get(name, 0)) for name in {**before, **after}}
        if any(moved.values()):
            return max(sorted(moved), key=lambda name: moved[name])
    return ""


def _ns_by_name(share: CauseShare, key: str) -> Mapping[str, int]:
    return {row["name"]: row["ns"] for row in detail_rows(share, key)}
