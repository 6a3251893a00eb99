"""One window as the rules see it: what is left to explain, what is known beside it, and what other windows took."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..model.events import Ints, distinct_rows
from ..model.report import CauseShare, WindowReport
from ..model.taxonomy import Cause, Stage, WindowKind
from .facts import WindowFacts

# So long without a request, a server is idle.
_IDLE_NS = 1_000_000_000
_TOLD = 0.1
_MIN_OTHERS = 3  # requests, before a median says anything
_CAUSE_BY_VALUE = {int(cause): cause for cause in Cause}


@dataclass(frozen=True, slots=True)
class Steady:
    """The requests after the first: what each cause took in each of them."""

    row_by_index: Mapping[int, int] = field(default_factory=dict)  # by the window's index
    ns_by_cause: Mapping[Cause, Ints] = field(default_factory=dict)

    def ns(self, causes: Collection[Cause]) -> Ints:
        """Return the time of these causes, by row."""
        none = np.zeros(len(self.row_by_index), np.int64)
        return sum((self.ns_by_cause[cause] for cause in causes if cause in self.ns_by_cause), none)


def steady_requests(windows: Sequence[WindowReport]) -> Steady:
    """Tabulate the requests after the first."""
    chosen = [window for window in windows if window.kind is WindowKind.TTFT and window.index > 0]
    ns_by_cause: dict[Cause, Ints] = {}
    for row, window in enumerate(chosen):
        for share in window.causes:
            ns_by_cause.setdefault(share.cause, np.zeros(len(chosen), np.int64))[row] = share.ns
    return Steady({window.index: row for row, window in enumerate(chosen)}, ns_by_cause)


@dataclass(slots=True)
class Case:
    """A window before its judge. What a rule has explained is taken, so that no ns is claimed twice."""

    window: WindowReport
    facts: WindowFacts
    state: Mapping[str, Any]
    steady: Steady = field(default_factory=Steady)
    _left: dict[tuple[Stage, Cause], int] = field(init=False)

    def __post_init__(self) -> None:
        self._left = _by_stage_and_cause(self.window, self.facts.broken_off_ns)

    @property
    def total_ns(self) -> int:
        """Return the window's length."""
        return self.window.total_ns

    @property
    def is_load(self) -> bool:
        """Say whether it is the load."""
        return self.window.kind is WindowKind.LOAD

    def left(self, causes: Collection[Cause], stages: Collection[Stage] = tuple(Stage)) -> int:
        """Return how much time of these causes in these stages no rule has explained yet."""
        return sum(ns for (stage, cause), ns in self._left.items() if cause in causes and stage in stages)

    def take(self, ns: int, causes: Collection[Cause], stages: Collection[Stage] = tuple(Stage)) -> None:
        """Take time off what is left, the largest part first."""
        for key in sorted(self._left, key=lambda key: (-self._left[key], key)):
            if key[1] in causes and key[0] in stages:
                taken = min(ns, self._left[key])
                self._left[key] -= taken
                ns -= taken

    def share(self, cause: Cause) -> CauseShare:
        """Return a cause's share of the window, an empty one where there is none."""
        shares = (share for share in self.window.causes if share.cause is cause)
        return next(shares, CauseShare(cause, 0, 0, 0, {}))

    def count(self, *causes: Cause) -> int:
        """Return how often these causes happened."""
        return sum(self.share(cause).count for cause in causes)

    def size_bytes(self, *causes: Cause) -> int:
        """Return the bytes of these causes."""
        return sum(self.share(cause).size_bytes for cause in causes)

    def largest(self, key: str, causes: Sequence[Cause]) -> str:
        """Return the name that most of the time of these causes went to, from the detail lists of this key.

        '' where none explains a tenth of that time.
        """
        shares = [self.share(cause) for cause in causes]
        ns_by_name: dict[str, int] = defaultdict(int)
        for share in shares:
            for row in share.detail.get(key, []):
                ns_by_name[str(row["name"])] += int(row["ns"])
        name = min(ns_by_name, key=lambda name: (-ns_by_name[name], name), default="")
        return name if ns_by_name[name] >= _TOLD * sum(share.ns for share in shares) else ""

    def ns_of(self, key: str, name: str, causes: Sequence[Cause]) -> int:
        """Return the time of these causes that went to a name of a detail list."""
        rows = [row for cause in causes for row in self.share(cause).detail.get(key, [])]
        return sum(int(row["ns"]) for row in rows if row["name"] == name)

    def known(self, *path: str, moment: str = "before") -> Any:
        """Return what the state of the node says at a moment, None where it says nothing."""
        value: Any = self.state.get(path[0])
        if isinstance(value, Mapping) and moment in value:
            value = value[moment]
        for key in path[1:]:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, *path: str, moment: str = "before") -> float:
        """Return a number of the state, 0 where it says none."""
        value = self.known(*path, moment=moment)
        return float(value) if isinstance(value, int | float) else 0.0

    @property
    def is_steady(self) -> bool:
        """Say whether it is a request after the first."""
        return not self.is_load and self.window.index in self.steady.row_by_index

    @property
    def idle_ns(self) -> int:
        """Return how long nobody had asked for anything before it; 0 for less than a second."""
        return self.facts.idle_ns if self.facts.idle_ns >= _IDLE_NS else 0

    def usual_ns(self, causes: Collection[Cause]) -> int:
        """Return the median time of these causes in the other steady requests; 0 for fewer than three."""
        ns = self.steady.ns(causes)
        others = np.delete(ns, self.steady.row_by_index[self.window.index]) if self.is_steady else ns
        return int(np.median(others)) if len(others) >= _MIN_OTHERS else 0

    def noise_ns(self, causes: Collection[Cause]) -> int:
        """Return how far the steady requests lie from their median in these causes: the median distance."""
        ns = self.steady.ns(causes)
        return int(np.median(np.abs(ns - np.median(ns)))) if len(ns) >= _MIN_OTHERS else 0


def _by_stage_and_cause(window: WindowReport, broken_off_ns: int | None) -> dict[tuple[Stage, Cause], int]:
    """Sum up the segments; a wait that only the end of the program ended, and what came after, has no remedy."""
    sums: dict[tuple[Stage, Cause], int] = defaultdict(int)
    segments = window.segments
    if segments is not None:
        is_own = segments.end_ns < (window.end_ns + 1 if broken_off_ns is None else broken_off_ns)
        keys = segments.stage.astype(np.int64) << 8 | segments.cause
        distinct, row = distinct_rows(keys)
        total_ns = np.zeros(len(distinct), np.int64)
        np.add.at(total_ns, row[is_own], segments.dur_ns[is_own])
        for key, ns in zip(distinct.tolist(), total_ns.tolist(), strict=True):
            sums[Stage(key >> 8), _CAUSE_BY_VALUE[key & 0xFF]] += ns
    return dict(sums)
