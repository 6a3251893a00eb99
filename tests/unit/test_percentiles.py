"""Percentiles over requests: nearest rank, each with the split of the request that it is."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from slmtrace.model.events import NO_EVENT
from slmtrace.model.percentiles import ttft_percentiles
from slmtrace.model.report import Report, WindowReport
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.output.json_ import check_conservation, read_schema, render_json
from slmtrace.output.markdown import render_markdown
from slmtrace.output.text import render_text
from tests.support.builders import MS, T0_NS, make_report, make_segments, make_window


def request(index: int, total_ms: int) -> WindowReport:
    """Make a request that computes for 1 ms, and waits for the rest."""
    pieces = [
        ((total_ms - 1) * MS, Stage.QUEUE, Cause.ENGINE_QUEUE, 0, NO_EVENT),
        (MS, Stage.PREFILL, Cause.CPU_KERNEL, 0, NO_EVENT),
    ]
    return make_window(WindowKind.TTFT, index, make_segments(T0_NS + index * 500 * MS, pieces))


def report_of(*totals_ms: int) -> Report:
    return make_report([request(index, total) for index, total in enumerate(totals_ms)])


def breakdown_of(*totals_ms: int) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(render_json(report_of(*totals_ms)))
    return data


def test_percentiles_are_requests_at_their_nearest_rank() -> None:
    found = ttft_percentiles(report_of(*range(100, 0, -1), *range(101, 201)).windows)

    assert [(one.percent, one.window.total_ns // MS) for one in found] == [(50, 100), (95, 190), (99, 198)]


def test_of_five_requests_the_upper_percentiles_are_the_slowest() -> None:
    found = ttft_percentiles(report_of(30, 10, 50, 20, 40).windows)

    assert [(one.percent, one.window.index) for one in found] == [(50, 0), (95, 2), (99, 2)]


def test_fewer_than_five_requests_have_no_percentiles_anywhere() -> None:
    report = report_of(30, 10, 50, 20)

    assert ttft_percentiles(report.windows) == []
    assert "percentiles" not in json.loads(render_json(report))
    assert "p50" not in render_text(report) + render_markdown(report)


def test_text_and_markdown_show_the_split_of_the_request_at_each_rank() -> None:
    report = report_of(30, 10, 50, 20, 40)

    text, markdown = render_text(report), render_markdown(report)

    rows = [line.split()[:5] for line in text.splitlines() if line.startswith("ttft p")]
    assert [row[:4] for row in rows] == [
        ["ttft", f"p{p}", ns, "ms"] for p, ns in ((50, "30.0"), (95, "50.0"), (99, "50.0"))
    ]
    assert "p50 is ttft 0" in text
    assert "| phase | first ttft | later ttft | p50 (ttft 0) | p95 (ttft 2) | p99 (ttft 2) |" in markdown


def test_a_percentile_says_what_its_steps_computed_for_others() -> None:
    slowest = request(4, 50)
    batch = [{"name": "tokens of other requests", "ns": 700_000, "count": 14, "bytes": 0},
             {"name": "tokens of this request", "ns": 300_000, "count": 6, "bytes": 0}]  # fmt: skip
    causes = [
        replace(share, detail={"batch": batch}) if share.cause is Cause.CPU_KERNEL else share
        for share in slowest.causes
    ]
    report = make_report([*(request(index, 10) for index in range(4)), replace(slowest, causes=causes)])

    text = render_text(report, width=120)

    assert "p99 is ttft 4, 700 us of it for tokens of other requests" in text
    assert "1.00 ms (2 %), 700 us of it for tokens of other requests |" in render_markdown(report)


def test_a_breakdown_with_percentiles_is_sound_and_fits_the_schema() -> None:
    data = breakdown_of(30, 10, 50, 20, 40)

    jsonschema.Draft202012Validator(read_schema()).validate(data)
    assert check_conservation(data) == []
    assert render_json(Report.from_json(data)) == render_json(report_of(30, 10, 50, 20, 40))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda given: given[0].update(total_ns=7), "ttft p50: is not ttft 0"),
        (lambda given: given[0]["phases"].update(dma=1), "ttft p50: is not ttft 0"),
        (lambda given: given[1].update(given[0], percent=95), "ttft p95: 3 of 5 requests took no longer, 2 less"),
        (lambda given: given[0].update(given[1], percent=50), "ttft p50: 5 of 5 requests took no longer, 4 less"),
        (lambda given: given.pop(), "the percentiles are not those expected"),
    ],
)
def test_each_kind_of_wrong_percentile_is_named(damage: Any, complaint: str) -> None:
    data = copy.deepcopy(breakdown_of(30, 10, 50, 20, 40))
    damage(data["percentiles"])

    assert complaint in check_conservation(data)
