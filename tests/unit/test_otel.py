"""Spans of vLLM: its start and its requests are explained as far as spans say, and what they lack is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from slmtrace.analysis import build_report
from slmtrace.cli.main import main
from slmtrace.errors import CaptureError, UsageError
from slmtrace.foreign import read_foreign
from slmtrace.model.report import Report, WindowReport
from slmtrace.model.taxonomy import Cause, Stage
from slmtrace.output.json_ import check_conservation
from slmtrace.output.perfetto import read_embedded_breakdown
from tests.support.builders import MS

FIXTURE = Path(__file__).parents[1] / "fixtures" / "vllm-spans.jsonl"
EPOCH_NS = 1_790_000_000 * 1000 * MS


def span(name: str, start_ms: int, end_ms: int, span_id: str = "", parent: str = "", **attributes: Any) -> dict:
    return {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": span_id or f"{name} {start_ms}",
        "parentSpanId": parent,
        "name": name,
        # Integers of 64 bits are texts in OTLP's JSON.
        "startTimeUnixNano": str(EPOCH_NS + start_ms * MS),
        "endTimeUnixNano": str(EPOCH_NS + end_ms * MS),
        "attributes": [{"key": key, "value": value} for key, value in attributes.items()],
    }


def resource(pid: int, name: str, *spans: dict) -> dict:
    attributes = {"vllm.process_id": str(pid), "vllm.process_name": name}
    return {
        "resource": {"attributes": [{"key": key, "value": {"stringValue": text}} for key, text in attributes.items()]},
        "scopeSpans": [{"scope": {"name": "vllm"}, "spans": list(spans)}],
    }


def request(start_ms: int, ttft_ms: float, queue_ms: float, prefill_ms: float, name: str = "cmpl-1") -> dict:
    latencies = {"time_to_first_token": ttft_ms, "time_in_queue": queue_ms, "time_in_model_prefill": prefill_ms}
    return span(
        "llm_request",
        start_ms,
        start_ms + 5000,
        **{f"gen_ai.latency.{key}": {"doubleValue": value / 1000} for key, value in latencies.items()},
        **{"gen_ai.request.id": {"stringValue": name}},
    )


# A start of 10 s on two workers, of which the second one loads longer; then two requests at the same time.
SERVER = resource(
    10,
    "APIServer",
    span("Overall Loading", 0, 9000, "overall"),
    span("AsyncMPClient init", 100, 9000, "client", "overall"),
    span("API server setup", 9000, 10_000),
    request(11_000, 40, 5, 30),
    request(11_010, 80, 45, 30, "cmpl-2"),
)
ENGINE = resource(20, "EngineCore", span("EngineCoreProc init", 1000, 8900, "core", "client"))
WORKERS = [
    resource(
        30 + rank,
        f"Worker_TP{rank}",
        span("Worker init", 2000, 8000 + rank, f"worker {rank}", "core"),
        span("Load weights", 3000, 6000 + 1000 * rank, f"weights {rank}", f"worker {rank}"),
    )
    for rank in (0, 1)
]
RESOURCES = [SERVER, ENGINE, *WORKERS]


def write(path: Path, resources: list[dict]) -> Path:
    path.write_text(json.dumps({"resourceSpans": resources}))
    return path


def explained(path: Path) -> Report:
    report = build_report(read_foreign(path))
    assert check_conservation(report.to_json()) == []
    return report


def ns_by_stage(window: WindowReport) -> dict[Stage, int]:
    return {share.stage: share.ns for share in window.stages if share.ns}


def ns_by_cause(window: WindowReport) -> dict[Cause, int]:
    return {share.cause: share.ns for share in window.causes if share.ns}


def test_the_load_is_explained_by_the_worker_that_it_waited_for(tmp_path: Path) -> None:
    load = explained(write(tmp_path / "s.json", RESOURCES)).windows[0]

    assert load.total_ns == 10_000 * MS
    assert ns_by_stage(load) == {
        Stage.PROCESS_START: 100 * MS,
        Stage.PROCESS_SPAWN: 2899 * MS,
        Stage.DEVICE_INIT: 2001 * MS,
        Stage.WEIGHTS: 4000 * MS,
        Stage.SERVER_START: 1000 * MS,
    }


def test_the_spans_that_a_real_vllm_sent_explain_its_start_and_its_requests() -> None:
    trace = read_foreign(FIXTURE)
    load, first, later = build_report(trace).windows

    assert {stage: round(ns / 1e9, 1) for stage, ns in ns_by_stage(load).items() if ns > 1000 * MS} == {
        Stage.PROCESS_SPAWN: 16.5,
        Stage.DEVICE_INIT: 1.4,
        Stage.WARMUP: 43.0,
        Stage.KV_CACHE: 1.2,
    }
    assert [round(one.total_ns / MS, 2) for one in (load, first, later)] == [62921.44, 29.69, 9.84]
    assert [ns_by_stage(one)[Stage.PREFILL] for one in (first, later)] == [7_433_266, 4_636_443]
    assert "vllm.llm_engine" in {trace.tracks[row].process for row in range(len(trace.tracks))}
    assert trace.quality.counts == {}


def test_a_request_ends_with_its_first_token_not_with_its_span(tmp_path: Path) -> None:
    report = explained(write(tmp_path / "s.json", RESOURCES))

    assert [(one.label, one.total_ns, one.request_id) for one in report.windows[1:]] == [
        ("ttft 0", 40 * MS, "cmpl-1"),
        ("ttft 1", 80 * MS, "cmpl-2"),
    ]


def test_requests_at_the_same_time_have_each_their_own_queue_and_prefill(tmp_path: Path) -> None:
    windows = explained(write(tmp_path / "s.json", RESOURCES)).windows[1:]

    assert [ns_by_stage(one) for one in windows] == [
        {Stage.SUBMIT: 5 * MS, Stage.QUEUE: 5 * MS, Stage.PREFILL: 30 * MS},
        {Stage.SUBMIT: 5 * MS, Stage.QUEUE: 45 * MS, Stage.PREFILL: 30 * MS},
    ]
    assert ns_by_cause(windows[1]) == {
        Cause.ENGINE_QUEUE: 45 * MS,
        Cause.CPU_KERNEL: 30 * MS,
        Cause.NO_EVIDENCE: 5 * MS,
    }


def test_what_such_a_trace_lacks_is_named(tmp_path: Path) -> None:
    sources = {one.name: one for one in explained(write(tmp_path / "s.json", RESOURCES)).sources}

    assert sources["ebpf"].status == "unavailable"
    assert "no scheduler, fault or I/O evidence" in sources["ebpf"].reason
    assert "no steps of the scheduler and the worker" in sources["ranges"].reason


def test_latencies_that_do_not_fit_are_cut_and_counted(tmp_path: Path) -> None:
    report = explained(write(tmp_path / "s.json", [resource(10, "", request(0, 40, 30, 30))]))

    assert ns_by_stage(report.windows[0]) == {Stage.QUEUE: 10 * MS, Stage.PREFILL: 30 * MS}
    assert any("overlapped without nesting" in line for line in report.quality)


def test_the_files_of_a_collector_have_a_request_a_line(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps({"resourceSpans": [one]}) for one in RESOURCES)
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(lines.encode()))

    assert (
        explained(tmp_path / "s.jsonl.gz").windows[0].phases
        == explained(write(tmp_path / "s.json", RESOURCES)).windows[0].phases
    )


@pytest.mark.parametrize(
    "broken",
    [
        {"name": "Load weights"},
        {"name": 7, "startTimeUnixNano": "x", "endTimeUnixNano": "1"},
        {"startTimeUnixNano": "-5", "endTimeUnixNano": "1"},
        {"startTimeUnixNano": "9" * 40, "endTimeUnixNano": 1},
        {"startTimeUnixNano": True, "endTimeUnixNano": True, "attributes": "?"},
        {**request(0, 40, 5, 30), "attributes": [{"key": [], "value": 3}, 4, {"value": {"doubleValue": "NaN"}}]},
    ],
)
def test_what_is_malformed_is_left_out_and_counted(tmp_path: Path, broken: dict) -> None:
    path = write(tmp_path / "s.json", [*RESOURCES, resource(10, "APIServer", broken)])

    report = explained(path)

    assert len(report.windows) == 3
    assert "records with values that cannot be, skipped: 1" in report.quality


def test_spans_that_are_their_own_ancestors_do_not_hang(tmp_path: Path) -> None:
    circle = [
        span("Load model", 0, 100, "a", "b"),
        span("Load weights", 10, 90, "b", "a"),
        span("Worker init", 5, 95, "c", "c"),
    ]

    assert explained(write(tmp_path / "s.json", [resource(1, "", *circle)])).windows[0].total_ns == 100 * MS


def test_spans_of_other_services_are_no_start_of_vllm(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="has no spans of vLLM"):
        read_foreign(write(tmp_path / "s.json", [resource(1, "shop", span("GET /", 0, 5))]))


def test_a_file_of_neither_kind_is_refused_with_what_to_export(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{}")

    with pytest.raises(CaptureError, match="neither traceEvents nor resourceSpans"):
        read_foreign(tmp_path / "s.json")


def test_windows_of_spans_cannot_be_chosen_by_range(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="their own windows"):
        read_foreign(write(tmp_path / "s.json", RESOURCES), "generate")


def test_the_command_explains_and_writes_a_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, timeline = write(tmp_path / "s.json", RESOURCES), tmp_path / "s.pftrace"

    assert main(["import", str(path), "-o", str(timeline)]) == 0

    shown = capsys.readouterr().out
    assert "scheduler.engine_queue" in shown
    assert "no scheduler, fault or I/O evidence" in shown
    assert [window["total_ns"] for window in read_embedded_breakdown(timeline)["windows"]] == [
        *(10_000 * MS, 40 * MS, 80 * MS),
    ]
