"""The regression test: exact under no difference, silent on equal runs, awake to five percent."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest

from slmtrace.studies.sequential import Decision, SequentialTest, critical_value, mann_whitney, signed_ranks

# Noise like that of real runs: a narrow body, and now and then a run that something disturbed.
DISTURBED_SHARE, DISTURBED_FACTOR = 0.05, 1.15


def noisy(rng: random.Random, sigma: float) -> float:
    value = rng.lognormvariate(0.0, sigma)
    return value * DISTURBED_FACTOR if rng.random() < DISTURBED_SHARE else value


def decide(rng: random.Random, slowdown: float, *, sigma: float = 0.012, n_max: int = 32) -> Decision:
    test = SequentialTest([noisy(rng, sigma) for _ in range(16)], 0.05, n_max)
    values: list[float] = []
    while len(values) < n_max:
        values += [noisy(rng, sigma) * (1 + slowdown) for _ in range(4)]
        decision, _ = test.look(values)
        if decision is not Decision.UNDECIDED:
            return decision
    return Decision.UNDECIDED


def enumerated(n_a: int, n_b: int, u: int) -> float:
    """Count over all arrangements of n_a + n_b ranks."""
    counts = Counter(
        sum(rank - place for place, rank in enumerate(ranks)) for ranks in itertools.combinations(range(n_a + n_b), n_b)
    )
    return sum(n for value, n in counts.items() if value <= u) / sum(counts.values())


@pytest.mark.parametrize(("n_a", "n_b"), [(1, 1), (3, 4), (5, 2), (4, 4), (2, 7)])
def test_the_distribution_is_that_of_all_arrangements(n_a: int, n_b: int) -> None:
    for u in range(n_a * n_b + 1):
        assert mann_whitney(n_a, n_b)[u] == pytest.approx(enumerated(n_a, n_b, u))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_distribution_of_signed_ranks_is_that_of_all_signs(n: int) -> None:
    sums = [sum(itertools.compress(range(1, n + 1), signs)) for signs in itertools.product((0, 1), repeat=n)]

    for w, p in enumerate(signed_ranks(n)):
        assert p == pytest.approx(sum(value <= w for value in sums) / len(sums))


def test_a_level_that_few_runs_cannot_reach_bounds_nothing() -> None:
    assert critical_value(mann_whitney(3, 3), 0.04) == -1  # the rarest arrangement has one chance in twenty
    assert critical_value(mann_whitney(3, 3), 0.06) == 0


def test_fifty_equal_pairs_raise_no_alarm() -> None:
    rng = random.Random(7)

    decisions = [decide(rng, 0.0) for _ in range(50)]

    assert Decision.REGRESSION not in decisions


def test_five_percent_is_found_nineteen_times_of_twenty() -> None:
    rng = random.Random(11)

    decisions = [decide(rng, 0.05) for _ in range(100)]

    assert decisions.count(Decision.REGRESSION) >= 95


def test_loud_equal_runs_raise_no_alarm_either() -> None:
    rng = random.Random(13)

    decisions = [decide(rng, 0.0, sigma=0.08) for _ in range(50)]

    assert Decision.REGRESSION not in decisions


def drifting_pairs(rng: random.Random, slowdown: float, n: int = 32) -> tuple[list[float], list[float]]:
    """Make pairs on a machine that gets slower and faster by far more than the runs differ."""
    speed = [math.exp(0.5 * math.sin(pair / 4)) for pair in range(n)]
    return [noisy(rng, 0.012) * one for one in speed], [noisy(rng, 0.012) * one * (1 + slowdown) for one in speed]


@pytest.mark.parametrize(("slowdown", "expected"), [(0.0, Decision.PASS), (0.05, Decision.REGRESSION)])
def test_pairs_decide_where_drift_hides_everything_else(slowdown: float, expected: Decision) -> None:
    before, after = drifting_pairs(random.Random(17), slowdown)

    assert SequentialTest(before, 0.05, 32).look(after)[0] is Decision.UNDECIDED
    assert SequentialTest(before, 0.05, 32, is_paired=True).look(after)[0] is expected


def test_what_is_clear_is_decided_before_the_last_repeat() -> None:
    test = SequentialTest([1.0, 1.001, 1.002, 1.003, 1.004, 1.005, 1.006, 1.007], 0.05, 24)

    decisions = [test.look([2.0 + n / 1000 for n in range(size)])[0] for size in (4, 6, 8, 10)]

    assert Decision.REGRESSION in decisions


def test_a_faster_run_passes() -> None:
    test = SequentialTest([1.0 + n / 1000 for n in range(8)], 0.05, 24)

    assert test.look([0.5 + n / 1000 for n in range(10)])[0] is Decision.PASS


def test_the_smallest_visible_regression_grows_with_the_noise() -> None:
    def visible(spread: float) -> float:
        values = [1.0 + spread * n for n in range(12)]
        return SequentialTest(values, 0.05, 12).look(values)[1].visible

    assert 0 < visible(0.001) < visible(0.01) < math.inf


def test_runs_too_few_to_see_anything_say_so() -> None:
    _, shift = SequentialTest([1.0, 1.1], 0.05, 24).look([1.0, 1.1])

    assert shift.visible == math.inf
