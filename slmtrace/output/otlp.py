"""The report as OpenTelemetry spans, in OTLP's JSON form (opentelemetry-proto, "JSON Protobuf Encoding").

A span a window, and below it one a stretch of a stage; attributes by the semantic conventions for generative AI, and
vLLM's name for the time to first token, so that the spans stand beside those of an engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import __version__
from ..model.report import Report, WindowReport
from ..model.taxonomy import Stage, WindowKind
from .plain import plain

_INTERNAL = 1  # SpanKind
# The conventions have no name for loading a model.
_OPERATIONS = {WindowKind.LOAD: "load_model", WindowKind.TTFT: "text_completion"}


def render_otlp(report: Report) -> str:
    """Render one ExportTraceServiceRequest; the same report gives the same bytes."""
    spans = [span for window in report.windows for span in _spans(report, window)]
    scope = {"scope": {"name": "slmtrace", "version": __version__}, "spans": spans}
    resource = {"attributes": _attributes({"service.name": "slmtrace", "slmtrace.tier": _text(report, "tier")})}
    data = {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def _spans(report: Report, window: WindowReport) -> Iterator[dict[str, Any]]:
    trace_id = _digest(report, window.label, 32)
    root_id = _digest(report, f"{window.label} root", 16)
    offset_ns = _realtime_offset_ns(report)
    attributes = {
        "gen_ai.operation.name": _OPERATIONS[window.kind],
        "gen_ai.provider.name": _text(report, "engine"),
        "gen_ai.request.model": _text(report, "model"),
        **{f"slmtrace.phase.{phase.label}_ns": ns for phase, ns in sorted(window.phases.items()) if ns},
        **{f"slmtrace.cause.{share.cause.label}_ns": share.ns for share in window.causes},
    }
    if window.kind is WindowKind.TTFT:
        attributes["gen_ai.latency.time_to_first_token"] = window.total_ns / 1e9
        attributes["gen_ai.request.id"] = plain(window.request_id)

    def span(name: str, span_id: str, start_ns: int, end_ns: int, values: dict[str, Any]) -> dict[str, Any]:
        return {
            "traceId": trace_id,
            "spanId": span_id,
            "name": name,
            "kind": _INTERNAL,
            # Integers of 64 bits are strings in this form.
            "startTimeUnixNano": str(start_ns + offset_ns),
            "endTimeUnixNano": str(end_ns + offset_ns),
            "attributes": _attributes(values),
        }

    yield span(f"slmtrace {window.label}", root_id, window.start_ns, window.end_ns, attributes)
    for number, (stage, start_ns, end_ns) in enumerate(_stage_runs(window)):
        child = span(stage.label, _digest(report, f"{window.label} {number}", 16), start_ns, end_ns, {})
        yield {**child, "parentSpanId": root_id}


def _stage_runs(window: WindowReport) -> Iterator[tuple[Stage, int, int]]:
    """Yield the stretches of stages; without segments, as from a trace file, there are none."""
    segments = window.segments
    if segments is None or not len(segments):
        return
    first = np.flatnonzero(np.append(True, segments.stage[1:] != segments.stage[:-1]))
    last = np.append(first[1:], len(segments)) - 1
    for begin, end in zip(first.tolist(), last.tolist(), strict=True):
        yield Stage(int(segments.stage[begin])), int(segments.start_ns[begin]), int(segments.end_ns[end])


def _realtime_offset_ns(report: Report) -> int:
    """Return the wall clock - CLOCK_MONOTONIC by the first clock snapshot; 0 without one."""
    for snapshot in report.clock.get("snapshots", []):
        if "realtime_ns" in snapshot and "monotonic_ns" in snapshot:
            return int(snapshot["realtime_ns"]) - int(snapshot["monotonic_ns"])
    return 0


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value != ""]


def _value(value: object) -> dict[str, Any]:
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": str(value)}


def _text(report: Report, key: str) -> str:
    return plain(report.capture.get(key) or "")


def _digest(report: Report, what: str, digits: int) -> str:
    return hashlib.sha256(f"{report.capture.get('id', '')}\n{what}".encode()).hexdigest()[:digits]
