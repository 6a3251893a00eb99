"""The regression gate: repeat a run until it is clear whether it is slower than its baseline, and which phase moved.

The baseline is fixed (runs recorded earlier), or recorded now, turn by turn with the runs under test: on a machine
whose speed drifts from hour to hour, only the second compares like with like. Where other programs take the CPUs, a
window is compared without its waits for one as well: what they take comes and goes by far more than the limit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..model.report import Report
from ..output.diff.compare import Comparison, compare
from .repeat import FIRST, LATER, LOAD, only_series, own_ns, series_of
from .sequential import ALPHA, BETA, Decision, SequentialTest, Shift, halfway

MIN_REPEATS, LOOK_EVERY = 4, 4
SERIES = (LOAD, FIRST, LATER)
# Of two tests of a window, what the more certain one says counts.
_ORDER = (Decision.REGRESSION, Decision.PASS, Decision.UNDECIDED)

Record = Callable[[], Report]


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """What was decided of one window."""

    label: str
    decision: Decision
    shift: Shift
    is_own_time: bool = False  # it was decided without the waits for a CPU


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was decided, on how many runs, and where the time moved. `comparison` has a window for each verdict."""

    verdicts: list[SeriesVerdict]
    max_regression: float
    n_baseline: int
    n_repeats: int
    comparison: Comparison

    @property
    def is_regression(self) -> bool:
        """Say whether any window takes longer than it may."""
        return any(one.decision is Decision.REGRESSION for one in self.verdicts)


def check(
    baseline: Sequence[Report],
    record: Record,
    *,
    max_regression: float,
    max_repeats: int,
    record_baseline: Record | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> CheckResult:
    """Record until every window is decided, one is a regression, or `max_repeats` are in.

    With `record_baseline`, the baseline grows too, in a random order within each pair.

    Raises:
        UsageError: the runs have no window in common.
    """
    before, now = list(baseline), list[Report]()
    order = random.Random(seed)
    gate = _Gate(max_regression, max_repeats, is_paired=record_baseline is not None and not baseline)
    while len(now) < max_repeats:
        turns = [("run", record, now), *([("baseline run", record_baseline, before)] if record_baseline else [])]
        order.shuffle(turns)
        for name, take, reports in turns:
            say(f"{name} {len(reports) + 1} of at most {max_repeats}")
            reports.append(take())
        is_due = len(now) >= MIN_REPEATS and (len(now) - MIN_REPEATS) % LOOK_EVERY == 0
        if (is_due or len(now) == max_repeats) and gate.is_decided(before, now):
            break
    return CheckResult(
        verdicts=list(gate.verdicts.values()),
        max_regression=max_regression,
        n_baseline=len(before),
        n_repeats=len(now),
        comparison=compare([only_series(one) for one in before], [only_series(one) for one in now]),
    )


class _Gate:
    """Sequential tests for each window that all runs have; the chance of a false alarm is shared among them.

    Each window has several, and the first that can decides: the whole time tells most where nothing else runs, the time
    without waits for a CPU where much does; and of runs recorded in pairs, the pairs where the machine drifts. Without
    waits for a CPU a window passes only where with them it does not look slower: they may be its own threads' work.
    """

    def __init__(self, max_regression: float, max_repeats: int, *, is_paired: bool) -> None:
        self.verdicts: dict[str, SeriesVerdict] = {}
        self._limits = (max_regression, max_repeats)
        self._kinds = [(own, paired) for own in (False, True) for paired in ((False, True) if is_paired else (False,))]
        self._tests: dict[str, list[SequentialTest]] = {}

    def is_decided(self, before: Sequence[Report], now: Sequence[Report]) -> bool:
        """Look at what is in so far, and say whether recording more would change nothing."""
        labels = [label for label in SERIES if all(label in series_of(one) for one in (*before, *now))]
        if not labels:
            raise UsageError(
                "the baseline and the runs have no window in common", hint="make the baseline with the same options"
            )
        for label in labels:
            verdict = self.verdicts.get(label)
            if verdict is None or verdict.decision is Decision.UNDECIDED:
                tests = self._tests.setdefault(label, self._new_tests(len(labels)))
                looks = []
                for (is_own_time, _), test in zip(self._kinds, tests, strict=True):
                    test.baseline = _times(before, label, is_own_time=is_own_time)
                    seen = test.look(_times(now, label, is_own_time=is_own_time))
                    looks.append(SeriesVerdict(label, *seen, is_own_time))
                if any(not one.is_own_time and one.shift.estimate >= halfway(self._limits[0]) for one in looks):
                    looks = [one for one in looks if not one.is_own_time or one.decision is not Decision.PASS]
                self.verdicts[label] = min(looks, key=lambda one: (_ORDER.index(one.decision), one.shift.visible))
        decisions = {one.decision for one in self.verdicts.values()}
        return Decision.REGRESSION in decisions or Decision.UNDECIDED not in decisions

    def _new_tests(self, n_labels: int) -> list[SequentialTest]:
        n = len(self._kinds)
        alpha, beta = ALPHA / (n * n_labels), BETA / n
        return [SequentialTest((), *self._limits, alpha, beta, is_paired=paired) for _, paired in self._kinds]


def _times(reports: Sequence[Report], label: str, *, is_own_time: bool) -> list[float]:
    """Return the times of a window in nanoseconds, with or without its waits for a CPU."""
    windows = [series_of(report)[label] for report in reports]
    return [float(own_ns(one) if is_own_time else one.total_ns) for one in windows]
