"""Integers to text."""

from __future__ import annotations

import pytest

from slmtrace.units import format_bytes, format_count, format_ns, format_rate, format_share


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (1_000, "1.00 us"), (57_312, "57.3 us"), (5_712_000, "5.71 ms"),
     (999_960_000, "1000 ms"), (36_100_000_000, "36.1 s"), (-5_712_000, "-5.71 ms")],
)  # fmt: skip
def test_durations_have_three_digits(ns: int, text: str) -> None:
    assert format_ns(ns) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (4096, "4.00 KiB"), (3 << 30, "3.00 GiB"), (-2048, "-2.00 KiB")]
)
def test_sizes_are_binary(size: int, text: str) -> None:
    assert format_bytes(size) == text


def test_rates_are_decimal() -> None:
    assert format_rate(3_000_000_000, 2_000_000_000) == "1.50 GB/s"
    assert format_rate(1, 0) == "-"


def test_shares_of_nothing_and_almost_nothing() -> None:
    assert [format_share(0, 10), format_share(1, 10_000), format_share(1, 3), format_share(1, 0)] == [
        "0 %", "<0.1 %", "33.3 %", "0 %"]  # fmt: skip


def test_counts_have_thousands_apart() -> None:
    assert format_count(295_012) == "295,012"
