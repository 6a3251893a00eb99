"""OpenTelemetry's spans in OTLP's JSON form (opentelemetry-proto, "JSON Protobuf Encoding"), checked one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..decode.base import clean_text
from ..model.quality import Issue, Quality
from .document import Document, objects_in
from .otel_names import MODULE_NAME, PROCESS_ID, PROCESS_NAME, SERVICE_NAME

_LATEST_NS = 1 << 62
_MAX_TEXT = 256
_MAX_PID = 1 << 22  # linux/threads.h, PID_MAX_LIMIT


@dataclass(frozen=True, slots=True)
class Process:
    """Where spans come from, as their resource says."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class Span:
    """One span, checked. Times are nanoseconds since the epoch; `numbers` and `texts` are its attributes."""

    span_id: str
    parent_id: str
    name: str
    start_ns: int
    end_ns: int
    process: Process
    numbers: Mapping[str, float]
    texts: Mapping[str, str]


def read_spans(document: Document, quality: Quality) -> list[Span]:
    """Return the spans of a file in order of their start; what is malformed is left out and counted."""
    spans = []
    for resource in document.lists("resourceSpans"):
        described = resource.get("resource")
        process = _process(described if isinstance(described, dict) else {})
        # Before version 0.16 of the protocol, the scopes had another name.
        for scope in objects_in(resource.get("scopeSpans") or resource.get("instrumentationLibrarySpans")):
            for data in objects_in(scope.get("spans")):
                span = _span(data, process)
                if span is None:
                    quality.note(Issue.DAMAGED_RECORD)
                else:
                    spans.append(span)
    return sorted(spans, key=lambda span: (span.start_ns, -span.end_ns, span.span_id))


def _process(resource: Mapping[str, Any]) -> Process:
    numbers, texts = _attributes(resource)
    written = texts.get(PROCESS_ID, "")
    pid = int(written) if written.isdecimal() and len(written) < 8 else int(numbers.get("process.pid", 0))
    name = texts.get(PROCESS_NAME) or texts.get(MODULE_NAME) or texts.get(SERVICE_NAME, "")
    return Process(pid if 0 <= pid < _MAX_PID else 0, name)


def _span(data: Mapping[str, Any], process: Process) -> Span | None:
    start_ns, end_ns = _time(data.get("startTimeUnixNano")), _time(data.get("endTimeUnixNano"))
    if start_ns is None or end_ns is None:
        return None
    numbers, texts = _attributes(data)
    return Span(
        span_id=_text(data.get("spanId")),
        parent_id=_text(data.get("parentSpanId")),
        name=_text(data.get("name")),
        start_ns=start_ns,
        end_ns=max(end_ns, start_ns),
        process=process,
        numbers=numbers,
        texts=texts,
    )


def _time(value: object) -> int | None:
    """Read a fixed64, which is a decimal text in this form; some writers give a number."""
    if isinstance(value, str) and len(value) < 20 and value.isdecimal():
        value = int(value)
    is_time = isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LATEST_NS
    return value if is_time else None  # type: ignore[return-value]


def _attributes(owner: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, str]]:
    numbers: dict[str, float] = {}
    texts: dict[str, str] = {}
    for key, value in _pairs(owner):
        number = value.get("doubleValue", value.get("intValue"))
        if isinstance(value.get("stringValue"), str):
            texts[key] = _text(value["stringValue"])
        elif (parsed := _number(number)) is not None:
            numbers[key] = parsed
    return numbers, texts


def _pairs(owner: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for pair in objects_in(owner.get("attributes")):
        if isinstance(pair.get("key"), str) and isinstance(pair.get("value"), dict):
            yield pair["key"], pair["value"]


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    return clean_text(value[:_MAX_TEXT].encode("utf-8", "replace")) if isinstance(value, str) else ""
