"""Windows to judge, made by hand: so many ms of each cause in a stage, and what is known beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slmtrace.model.events import NO_EVENT
from slmtrace.model.report import Finding, WindowReport
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.verdict.facts import WindowFacts
from slmtrace.verdict.judge import judge
from tests.support.builders import MS, T0_NS, make_segments, make_window

Times = dict[tuple[Stage, Cause], int]  # ms


@dataclass(frozen=True)
class Scene:
    """One window of a run; what is left out is as on an ordinary node."""

    times_ms: Times
    kind: WindowKind = WindowKind.LOAD
    detail: dict[Cause, dict[str, Any]] = field(default_factory=dict)
    size_bytes: dict[Cause, int] = field(default_factory=dict)
    facts: WindowFacts = field(default_factory=WindowFacts)
    state: dict[str, Any] = field(default_factory=dict)
    ledger: tuple[dict[str, Any], ...] = ()

    def window(self, index: int = 0) -> WindowReport:
        pieces = [(ms * MS, stage, cause, 0, NO_EVENT) for (stage, cause), ms in self.times_ms.items() if ms]
        segments = make_segments(T0_NS, pieces)
        return make_window(self.kind, index, segments, detail=self.detail, size_bytes=self.size_bytes)

    def findings(self) -> list[Finding]:
        return self.judged().findings

    def judged(self) -> WindowReport:
        return judge([self.window()], [self.facts], self.state, self.ledger)[0]


def rows(**ns_by_name: int) -> list[dict[str, Any]]:
    """Return a detail list of these names and times in ms."""
    return [{"name": name, "ns": ms * MS, "count": 1, "bytes": 0} for name, ms in ns_by_name.items()]


def request(times_ms: Times, index: int) -> WindowReport:
    """Return the window of one request among others."""
    return Scene(times_ms, WindowKind.TTFT).window(index)
