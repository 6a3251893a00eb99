"""Tell a regression from noise with as few repeats as will do: a group-sequential rank test.

At each look, the times measured so far are compared with the baseline's by a test whose exact distribution under "no
difference" is known whatever the noise looks like; the shift is Hodges and Lehmann's median of differences, and its
confidence bounds are order statistics of these differences (Hollander, Wolfe and Chicken, "Nonparametric Statistical
Methods"). Mann and Whitney's (4.2-4.3) takes the differences of all pairs of values. Wilcoxon's signed ranks (3.1-3.3)
take those of each value and the one recorded beside it, and of these the means of all pairs: what drifts more slowly
than a pair takes is not in them. Values are compared as logarithms, so that a shift is a ratio.

Looking often must not raise the chance of a false alarm: each look may spend what Pocock's function has released by
then and no earlier look has spent (Lan and DeMets, Biometrika 1983). The sum of what is spent bounds the chance.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median

# Of a whole check, over all its windows and looks. A missed regression costs less than a gate nobody believes.
ALPHA, BETA = 0.003, 0.01
# A hundred runs see half of what twenty-five do; more are hardly worth their time.
MAX_REPEATS = 100


class Decision(Enum):
    """What a look says."""

    REGRESSION = "regression"
    PASS = "pass"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Shift:
    """How much longer B takes than A, as a share of A, with the bounds that the look could give."""

    estimate: float
    low: float  # -inf: so few repeats bound nothing at this level
    high: float

    @property
    def visible(self) -> float:
        """Return the smallest regression that would have been told from noise: the reach of the tighter bound known."""
        if math.isfinite(self.low):
            return (1 + self.estimate) / (1 + self.low) - 1
        return (1 + self.high) / (1 + self.estimate) - 1


@dataclass(slots=True)
class SequentialTest:
    """One series against its baseline, look after look, until it is decided or `n_max` repeats are in.

    No change and a change of `max_regression` are told apart: what lies between counts as the nearer of both. With
    `is_paired`, each value belongs to the baseline's of the same place, and was recorded before or after it by chance.
    """

    baseline: Sequence[float]
    max_regression: float
    n_max: int
    alpha: float = ALPHA
    beta: float = BETA
    is_paired: bool = False
    _spent: dict[str, float] = field(default_factory=lambda: {"alpha": 0.0, "beta": 0.0})

    def look(self, values: Sequence[float]) -> tuple[Decision, Shift]:
        """Decide by all values so far.

        Raises:
            ValueError: a time is not positive, or there is none.
        """
        if self.is_paired:
            ratios = [math.log(b) - math.log(a) for a, b in zip(self.baseline, values, strict=True)]
            differences = sorted((x + y) / 2 for x, y in itertools.combinations_with_replacement(ratios, 2))
            cumulative = signed_ranks(len(values))
        else:
            differences = sorted(math.log(b) - math.log(a) for b in values for a in self.baseline)
            cumulative = mann_whitney(len(self.baseline), len(values))
        released = math.log(1 + (math.e - 1) * min(1.0, len(values) / self.n_max))
        below = self._spend("alpha", self.alpha * released, cumulative)
        above = self._spend("beta", self.beta * released, cumulative)
        shift = Shift(
            estimate=math.expm1(median(differences)),
            low=math.expm1(differences[below]) if below >= 0 else -math.inf,
            high=math.expm1(differences[-1 - above]) if above >= 0 else math.inf,
        )
        half = halfway(self.max_regression)
        if shift.low > 0 and shift.estimate >= half:
            return Decision.REGRESSION, shift
        if shift.high < self.max_regression and shift.estimate < half:
            return Decision.PASS, shift
        return Decision.UNDECIDED, shift

    def _spend(self, kind: str, released: float, cumulative: Sequence[float]) -> int:
        """Return how many of the extreme differences lie outside the bound, less one; -1: nothing can be said yet."""
        at = critical_value(cumulative, released - self._spent[kind])
        if at >= 0:
            self._spent[kind] += cumulative[at]
        return at


def halfway(max_regression: float) -> float:
    """Return the change that lies as far from none as from this one."""
    return math.expm1(math.log1p(max_regression) / 2)


def critical_value(cumulative: Sequence[float], level: float) -> int:
    """Return the largest value of a statistic with P(it or less) <= level, by its distribution; -1: there is none."""
    return next((value - 1 for value, p in enumerate(cumulative) if p > level), len(cumulative) - 1)


@functools.lru_cache(maxsize=256)
def mann_whitney(n_a: int, n_b: int) -> tuple[float, ...]:
    """Return P(U <= u) for each u, when both samples are of one distribution."""
    # The count of arrangements by U: each b-value joins with 0..n_a a-values below it (a Gaussian binomial).
    counts = [1]
    for step in range(1, n_b + 1):
        grown = [0] * (len(counts) + n_a)
        # Multiply by (1 - q^(n_a+step)), then divide by (1 - q^step).
        product = counts + [0] * (n_a + step)
        for index, count in enumerate(counts):
            product[index + n_a + step] -= count
        for index in range(len(grown)):
            grown[index] = product[index] + (grown[index - step] if index >= step else 0)
        counts = grown
    total = math.comb(n_a + n_b, n_b)
    return tuple(sum_up_to / total for sum_up_to in itertools.accumulate(counts))


@functools.lru_cache(maxsize=256)
def signed_ranks(n: int) -> tuple[float, ...]:
    """Return P(W <= w) for each w, when each of n pairs is as likely to differ in one way as in the other."""
    # The count of signs by W: each rank is in the sum or not.
    counts = [1]
    for rank in range(1, n + 1):
        without, with_rank = counts + [0] * rank, [0] * rank + counts
        counts = [a + b for a, b in zip(without, with_rank, strict=True)]
    return tuple(sum_up_to / 2**n for sum_up_to in itertools.accumulate(counts))
