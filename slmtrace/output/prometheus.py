"""The report as Prometheus text, for a node exporter's textfile collector or a push gateway.

https://prometheus.io/docs/instrumenting/exposition_formats/ ("Text-based format"). Times are seconds, exact to the ns.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..model.report import Report, WindowReport
from .plain import plain
from .summary import as_mapping

_INFO = ("engine", "engine_version", "model", "tier", "status")
_Sample = tuple[dict[str, str], str]


def render_prometheus(report: Report) -> str:
    """Render gauges: the stages of a window by phase, and its causes, each sum to the window."""
    info = {key: plain(report.capture.get(key) or "") for key in _INFO}
    families = [
        ("recording_info", "What was recorded.", [(info, "1")]),
        ("window_seconds", "Length of a window: load, or a time to first token.", _windows(report)),
        ("stage_phase_seconds", "Time on the critical path of a window, by stage and phase.", _stages(report)),
        ("cause_seconds", "Time on the critical path of a window, by cause.", _causes(report)),
        ("lost_records", "Records that a source lost.", _losses(report)),
    ]
    lines: list[str] = []
    for name, meaning, samples in families:
        lines += [f"# HELP slmtrace_{name} {meaning}", f"# TYPE slmtrace_{name} gauge"]
        lines += [f"slmtrace_{name}{_labels(labels)} {value}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _windows(report: Report) -> Iterable[_Sample]:
    for window in report.windows:
        yield _key(window), _seconds(window.total_ns)


def _stages(report: Report) -> Iterable[_Sample]:
    for window in report.windows:
        for share in window.stages:
            for phase, ns in sorted(share.phases.items()):
                if ns:
                    yield _key(window) | {"stage": share.stage.label, "phase": phase.label}, _seconds(ns)


def _causes(report: Report) -> Iterable[_Sample]:
    for window in report.windows:
        for share in window.causes:
            yield _key(window) | {"phase": share.cause.phase.label, "cause": share.cause.label}, _seconds(share.ns)


def _losses(report: Report) -> Iterable[_Sample]:
    for line in report.ledger:
        for cause, count in sorted(as_mapping(line.get("lost")).items()):
            yield {"source": plain(line.get("source")), "cause": plain(cause)}, str(int(count))


def _key(window: WindowReport) -> dict[str, str]:
    return {"window": window.kind.label, "index": str(window.index)}


def _seconds(ns: int) -> str:
    return f"{ns // 10**9}.{ns % 10**9:09d}"


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
