"""Percentiles over the requests of a report: each is a request that was, with its own split, never a mix of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .report import WindowReport
from .taxonomy import WindowKind

PERCENTS = (50, 95, 99)
# Of fewer requests, the upper percentiles are all the slowest one.
MIN_REQUESTS = 5


@dataclass(frozen=True, slots=True)
class Percentile:
    """The request at a rank: at least `percent` of all requests took no longer."""

    percent: int
    window: WindowReport


def ttft_percentiles(windows: Sequence[WindowReport]) -> list[Percentile]:
    """Return the percentiles of the time to first token by nearest rank; none for fewer than five requests."""
    requests = [window for window in windows if window.kind is WindowKind.TTFT]
    if len(requests) < MIN_REQUESTS:
        return []
    ranked = sorted(requests, key=lambda window: (window.total_ns, window.index))
    return [Percentile(percent, ranked[_rank(percent, len(ranked)) - 1]) for percent in PERCENTS]


def _rank(percent: int, n: int) -> int:
    return -(-percent * n // 100)
