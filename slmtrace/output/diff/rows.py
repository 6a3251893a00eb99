"""Which movements a reader sees: the largest, and the others summed, so that what is shown still adds up."""

from __future__ import annotations

from collections.abc import Sequence

from ...units import format_bytes, format_count, format_ns
from ..plain import shorten_path
from ..summary import share_of
from .compare import Amount, Comparison, Movement, WindowComparison

MAX_ROWS = 5
# Movements below this share of the longer side are left to the sum of the others.
_MIN_SHARE = 0.005
# From here on a factor reads better than percent.
_LARGE_FACTOR = 10


def largest(movements: Sequence[Movement], limit: int = MAX_ROWS) -> list[Movement]:
    """Return the largest movements, and the sum of the others."""
    moved = sorted((one for one in movements if one.delta_ns), key=lambda one: (-abs(one.delta_ns), one.name))
    longer_ns = max(sum(one.a.ns for one in movements), sum(one.b.ns for one in movements))
    shown = [one for one in moved if abs(one.delta_ns) >= _MIN_SHARE * longer_ns][:limit] or moved[:1]
    others = [one for one in movements if one not in shown and (one.a.ns or one.b.ns)]
    return shown + ([_sum(others)] if others else [])


def verdict(window: WindowComparison, *, has_noise: bool) -> str:
    """Return what moved, in one line: 'B is 1.2 s shorter (-50 %), mostly storage.major_fault'."""
    total = window.total
    change = (
        f"B is {format_ns(abs(total.delta_ns))} {'longer' if total.delta_ns > 0 else 'shorter'} ({change_of(total)})"
    )
    if not total.delta_ns:
        return "A and B take the same time"
    doubt = "" if total.is_separate or not has_noise else ", within the noise of the repeats"
    # What moved the other way does not explain the change.
    same_way = [one for one in window.causes if one.delta_ns * total.delta_ns > 0]
    cause = max(same_way, key=lambda one: (abs(one.delta_ns), one.name))
    return f"{change}{doubt}; most of it {cause.name} ({signed(cause.delta_ns)})"


def change_of(movement: Movement) -> str:
    """Return the change as a share of A: '-50 %', 'x 12', 'new', 'gone'."""
    if not movement.a.ns or not movement.b.ns:
        return "new" if movement.b.ns else "gone" if movement.a.ns else "0 %"
    if movement.b.ns >= _LARGE_FACTOR * movement.a.ns:
        return f"x {format_count(round(movement.b.ns / movement.a.ns))}"
    sign = "+" if movement.delta_ns >= 0 else "-"
    return sign + share_of(abs(movement.delta_ns), movement.a.ns)


def signed(ns: int) -> str:
    """Return a duration with its sign."""
    return ("+" if ns > 0 else "") + format_ns(ns)


def noise(movement: Movement, comparison: Comparison) -> str:
    """Return how far a number moves between repeats; '=' marks a change that is within it."""
    if not comparison.has_noise:
        return ""
    return ("" if movement.is_separate else "= ") + format_ns(movement.noise_ns)


def what(movement: Movement, limit: int) -> str:
    """Return what moved inside a cause: the file or function, and counts and bytes where they moved."""
    a, b = movement.a, movement.b
    parts = [shorten_path(movement.where, limit)] if movement.where else []
    if a.count != b.count:
        parts.append(f"{format_count(a.count)} -> {format_count(b.count)} times")
    if a.size_bytes != b.size_bytes:
        parts.append(f"{format_bytes(a.size_bytes)} -> {format_bytes(b.size_bytes)}")
    return ", ".join(parts)


def _sum(movements: list[Movement]) -> Movement:
    def total(amounts: list[Amount]) -> Amount:
        return Amount(*(sum(getattr(one, name) for one in amounts) for name in ("ns", "low_ns", "high_ns")))

    name = f"{len(movements)} others" if len(movements) > 1 else movements[0].name
    return Movement(name, total([one.a for one in movements]), total([one.b for one in movements]))
