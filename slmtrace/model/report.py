"""The report: what every output is rendered from, and breakdown.json is the plain form of.

`to_json` and `from_json` are inverse but for the segments, which only a report made from a capture has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..capture.directory import CAPTURE_SHAPE, LEDGER_SHAPE, SOURCE_SHAPE
from ..capture.shape import Each, Facts, Whole, find_misfit
from .segments import Segments
from .taxonomy import Cause, Phase, Stage, WindowKind

SCHEMA = "slmtrace.breakdown/1"
# Names of the rows of a cause's "batch".
BATCH_OWN, BATCH_OTHERS = "tokens of this request", "tokens of other requests"

_PHASES_SHAPE = Each(int)
_SHAPE = {
    "capture": CAPTURE_SHAPE,
    "sources": [SOURCE_SHAPE],
    "state": Each(Facts),
    "windows": [
        {
            **dict.fromkeys(("name", "request_id", "note"), str),
            **dict.fromkeys(("index", "start_ns", "end_ns"), int),
            "phases": _PHASES_SHAPE,
            "causes": [{"cause": str, "ns": int, "count": int, "bytes": int, "detail": Each(Facts)}],
            "stages": [{"stage": str, "ns": int, "phases": _PHASES_SHAPE}],
            "overlapped": _PHASES_SHAPE,
            "floors": [{"name": str, "phase": str, "floor_ns": int, "actual_ns": int, "basis": str}],
            "findings": [
                {
                    **dict.fromkeys(("id", "phase", "cause", "evidence", "recommendation", "confidence"), str),
                    **dict.fromkeys(("excess_ns", "predicted_gain_ns"), int),
                }
            ],
        }
    ],
    "overhead": {"windows": [{"name": str, "index": int, "share": float}]},
    "ledger": [Whole({**LEDGER_SHAPE, "decoded": int})],
    "clock": {"residual_ns": Each(int), "snapshots": [Each(int)]},
    "quality": [str],
}


@dataclass(frozen=True, slots=True)
class CauseShare:
    """A cause's time in a window, how often, how many bytes, and which files and functions."""

    cause: Cause
    ns: int
    count: int
    size_bytes: int
    detail: Mapping[str, Any]  # "files", "functions", "packages", ...: lists of {"name", "ns", "count", "bytes"}


@dataclass(frozen=True, slots=True)
class StageShare:
    """A stage's time in a window, by phase."""

    stage: Stage
    ns: int
    phases: Mapping[Phase, int]


@dataclass(frozen=True, slots=True)
class Floor:
    """What physics allows on this node for one kind of work in the window."""

    name: str
    phase: Phase
    floor_ns: int
    actual_ns: int
    basis: str  # "3.09 GB / 1.9 GB/s measured on this device"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict's line: what costs how much, by which evidence, and what to do."""

    id: str
    phase: Phase
    cause: Cause
    excess_ns: int
    evidence: str
    recommendation: str
    predicted_gain_ns: int
    confidence: str  # "high", "medium", "low"


@dataclass(frozen=True, slots=True)
class WindowReport:
    """One window, explained. Phases, stages and (per phase) causes sum exactly."""

    kind: WindowKind
    index: int
    request_id: str
    note: str
    start_ns: int
    end_ns: int
    phases: Mapping[Phase, int]
    causes: list[CauseShare]
    stages: list[StageShare]
    overlapped: Mapping[Phase, int]
    floors: list[Floor] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    segments: Segments | None = None

    @property
    def total_ns(self) -> int:
        """Return the window's length."""
        return self.end_ns - self.start_ns

    @property
    def label(self) -> str:
        """Return 'load' or 'ttft 0'."""
        return self.kind.label if self.kind is WindowKind.LOAD else f"{self.kind.label} {self.index}"


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a probe fared in the recording."""

    name: str
    status: str  # "ok", "partial", "unavailable"
    reason: str
    records: int
    lost: int


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that outputs say."""

    capture: Mapping[str, Any]
    sources: list[SourceStatus]
    state: Mapping[str, Any]
    windows: list[WindowReport]
    overhead: Mapping[str, Any]
    ledger: list[Mapping[str, Any]]
    clock: Mapping[str, Any]
    quality: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return breakdown.json's content, plain and in a fixed order."""
        return {
            "schema": SCHEMA,
            "capture": dict(self.capture),
            "sources": [
                {"name": s.name, "status": s.status, "reason": s.reason, "records": s.records, "lost": s.lost}
                for s in self.sources
            ],
            "state": dict(self.state),
            "windows": [_window_to_json(window) for window in self.windows],
            "overhead": dict(self.overhead),
            "ledger": [dict(line) for line in self.ledger],
            "clock": dict(self.clock),
            "quality": list(self.quality),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """Read breakdown.json's content.

        Raises:
            ValueError, KeyError, TypeError: the content is not a breakdown of this schema.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"schema {str(data.get('schema'))[:80]!r} is not {SCHEMA!r}")
        if misfit := find_misfit(data, _SHAPE):
            raise ValueError(misfit)
        return cls(
            capture=dict(data["capture"]),
            sources=[
                SourceStatus(str(s["name"]), str(s["status"]), str(s["reason"]), int(s["records"]), int(s["lost"]))
                for s in data["sources"]
            ],
            state=dict(data["state"]),
            windows=[_window_from_json(window) for window in data["windows"]],
            overhead=dict(data["overhead"]),
            ledger=[dict(line) for line in data["ledger"]],
            clock=dict(data["clock"]),
            quality=[str(line) for line in data.get("quality", [])],
        )


def _window_to_json(window: WindowReport) -> dict[str, Any]:
    return {
        "name": window.kind.label,
        "index": window.index,
        "request_id": window.request_id,
        "note": window.note,
        "start_ns": window.start_ns,
        "end_ns": window.end_ns,
        "total_ns": window.total_ns,
        "phases": _phases_to_json(window.phases),
        "causes": [
            {
                "phase": share.cause.phase.label,
                "cause": share.cause.label,
                "ns": share.ns,
                "count": share.count,
                "bytes": share.size_bytes,
                "detail": dict(share.detail),
            }
            for share in window.causes
        ],
        "stages": [
            {"stage": share.stage.label, "ns": share.ns, "phases": _phases_to_json(share.phases)}
            for share in window.stages
        ],
        "overlapped": _phases_to_json(window.overlapped),
        "floors": [
            {"name": f.name, "phase": f.phase.label, "floor_ns": f.floor_ns, "actual_ns": f.actual_ns, "basis": f.basis}
            for f in window.floors
        ],
        "findings": [
            {
                "id": f.id,
                "phase": f.phase.label,
                "cause": f.cause.label,
                "excess_ns": f.excess_ns,
                "evidence": f.evidence,
                "recommendation": f.recommendation,
                "predicted_gain_ns": f.predicted_gain_ns,
                "confidence": f.confidence,
            }
            for f in window.findings
        ],
    }


def _window_from_json(data: Mapping[str, Any]) -> WindowReport:
    return WindowReport(
        kind=WindowKind[str(data["name"]).upper()],
        index=int(data["index"]),
        request_id=str(data["request_id"]),
        note=str(data.get("note", "")),
        start_ns=int(data["start_ns"]),
        end_ns=int(data["end_ns"]),
        phases=_phases_from_json(data["phases"]),
        causes=[
            CauseShare(
                Cause[str(c["cause"]).upper()], int(c["ns"]), int(c["count"]), int(c["bytes"]), dict(c["detail"])
            )
            for c in data["causes"]
        ],
        stages=[
            StageShare(Stage[str(s["stage"]).upper()], int(s["ns"]), _phases_from_json(s["phases"]))
            for s in data["stages"]
        ],
        overlapped=_phases_from_json(data["overlapped"]),
        floors=[
            Floor(
                str(f["name"]), Phase[str(f["phase"]).upper()], int(f["floor_ns"]), int(f["actual_ns"]), str(f["basis"])
            )
            for f in data["floors"]
        ],
        findings=[
            Finding(
                str(f["id"]),
                Phase[str(f["phase"]).upper()],
                Cause[str(f["cause"]).upper()],
                int(f["excess_ns"]),
                str(f["evidence"]),
                str(f["recommendation"]),
                int(f["predicted_gain_ns"]),
                str(f["confidence"]),
            )
            for f in data["findings"]
        ],
    )


def _phases_to_json(phases: Mapping[Phase, int]) -> dict[str, int]:
    return {phase.label: int(phases.get(phase, 0)) for phase in Phase}


def _phases_from_json(phases: Mapping[str, Any]) -> dict[Phase, int]:
    return {phase: int(phases[phase.label]) for phase in Phase}
