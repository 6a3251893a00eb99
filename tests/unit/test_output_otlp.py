"""The report as OpenTelemetry spans."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slmtrace.cli.main import main
from slmtrace.output.otlp import render_otlp
from slmtrace.output.perfetto import write_perfetto
from tests.support.builders import sample_run


def spans_of(text: str) -> list[dict[str, Any]]:
    (resource,) = json.loads(text)["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    found: list[dict[str, Any]] = scope["spans"]
    return found


def attributes_of(span: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}


def test_each_window_is_a_span_on_the_wall_clock() -> None:
    _, report = sample_run()
    snapshot = report.clock["snapshots"][0]

    roots = [span for span in spans_of(render_otlp(report)) if "parentSpanId" not in span]

    assert [span["name"] for span in roots] == [
        "slmtrace load",
        "slmtrace ttft 0",
        "slmtrace ttft 1",
        "slmtrace ttft 2",
    ]
    for span, window in zip(roots, report.windows, strict=True):
        start_ns = window.start_ns - snapshot["monotonic_ns"] + snapshot["realtime_ns"]
        assert int(span["startTimeUnixNano"]) == start_ns
        assert int(span["endTimeUnixNano"]) - start_ns == window.total_ns


def test_the_stretches_of_stages_partition_their_window() -> None:
    spans = spans_of(render_otlp(sample_run()[1]))

    for root in (span for span in spans if "parentSpanId" not in span):
        children = [span for span in spans if span.get("parentSpanId") == root["spanId"]]
        edges = [(child["startTimeUnixNano"], child["endTimeUnixNano"]) for child in children]
        assert edges[0][0] == root["startTimeUnixNano"]
        assert edges[-1][1] == root["endTimeUnixNano"]
        assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
        assert {child["traceId"] for child in children} == {root["traceId"]}


def test_phases_sum_to_the_span() -> None:
    for span in spans_of(render_otlp(sample_run()[1])):
        values = attributes_of(span)
        phases = [int(ns) for key, ns in values.items() if key.startswith("slmtrace.phase.")]
        assert not phases or sum(phases) == int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])


def test_requests_have_the_names_of_the_conventions() -> None:
    _, report = sample_run()

    values = attributes_of(next(span for span in spans_of(render_otlp(report)) if span["name"] == "slmtrace ttft 0"))

    assert values["gen_ai.operation.name"] == "text_completion"
    assert values["gen_ai.request.model"] == "tiny"
    assert values["gen_ai.latency.time_to_first_token"] == report.windows[1].total_ns / 1e9


def test_ids_are_well_formed_and_distinct() -> None:
    spans = spans_of(render_otlp(sample_run()[1]))

    assert all(len(bytes.fromhex(span["traceId"])) == 16 and len(bytes.fromhex(span["spanId"])) == 8 for span in spans)
    assert len({span["spanId"] for span in spans}) == len(spans)


def test_a_report_without_segments_has_its_windows_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, report = sample_run()
    write_perfetto(trace, report, tmp_path / "a.pftrace")

    assert main(["report", str(tmp_path / "a.pftrace"), "--format", "otlp"]) == 0

    bare = replace(report, windows=[replace(window, segments=None) for window in report.windows])
    assert spans_of(capsys.readouterr().out) == spans_of(render_otlp(bare))
    assert len(spans_of(render_otlp(bare))) == 4
