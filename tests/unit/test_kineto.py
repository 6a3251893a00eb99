"""Traces of torch.profiler: what they say is attributed, what is malformed is counted, what they lack is named."""

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
from slmtrace.foreign.kineto_names import copy_name
from slmtrace.model.report import Report
from slmtrace.model.taxonomy import Cause
from slmtrace.output.json_ import check_conservation
from slmtrace.output.perfetto import read_embedded_breakdown

PID, TID = 100, 101
BASE_US = 4_622_222_957_000.0


def event(category: str, name: str, start_us: float, dur_us: float, **args: Any) -> dict[str, Any]:
    on_gpu = category in ("kernel", "gpu_memcpy", "gpu_memset")
    pid, tid = (0, 7) if on_gpu else (PID, TID)
    args = {"device": 0, "stream": 7, **args} if on_gpu else args
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": BASE_US + start_us,
        "dur": dur_us,
        "args": args,
    }


# An annotation of 1 ms: 100 us of Python, an operator of 200 us with a launch, a copy, and a wait of 600 us for them.
EVENTS = [
    event("user_annotation", "generate", 0, 1000),
    event("cpu_op", "aten::mm", 100, 200),
    event("cuda_runtime", "cudaLaunchKernel", 250, 10, correlation=1),
    event("cuda_runtime", "cudaMemcpyAsync", 320, 10, correlation=2),
    event("kernel", "gemm", 300, 400, correlation=1),
    event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", 700, 200, correlation=2, bytes=4096),
    event("cuda_runtime", "cudaStreamSynchronize", 350, 600, correlation=3),
]


def write(path: Path, events: list[Any], **more: Any) -> Path:
    path.write_text(json.dumps({"schemaVersion": 1, "traceEvents": events, **more}))
    return path


def explained(path: Path, annotation: str = "") -> Report:
    report = build_report(read_foreign(path, annotation))
    assert check_conservation(report.to_json()) == []
    return report


def ns_by_cause(report: Report, window: int = 0) -> dict[Cause, int]:
    return {share.cause: share.ns for share in report.windows[window].causes}


def test_a_wait_for_the_gpu_is_what_the_gpu_did(tmp_path: Path) -> None:
    report = explained(write(tmp_path / "t.json", EVENTS), "generate")

    causes = ns_by_cause(report)
    assert report.windows[0].total_ns == 1_000_000
    assert causes[Cause.GPU_KERNEL] == 350_000
    assert causes[Cause.D2H] == 200_000
    assert causes[Cause.LAUNCH] == 260_000
    assert causes[Cause.NO_EVIDENCE] == 190_000


def test_without_a_gpu_operators_are_compute(tmp_path: Path) -> None:
    report = explained(write(tmp_path / "t.json", EVENTS[:2]))

    assert ns_by_cause(report)[Cause.CPU_KERNEL] == 200_000
    # Nothing in such a trace says whether the thread ran the code around them.
    assert ns_by_cause(report)[Cause.NO_EVIDENCE] == 800_000


def test_each_annotation_of_the_name_is_a_window(tmp_path: Path) -> None:
    steps = [event("user_annotation", f"ProfilerStep#{n}", 100 * n, 90) for n in range(5)]

    report = explained(write(tmp_path / "t.json", [*steps, EVENTS[1]]), "ProfilerStep")

    assert [(window.label, window.total_ns) for window in report.windows] == [(f"ttft {n}", 90_000) for n in range(5)]


def test_the_report_says_what_such_a_trace_lacks(tmp_path: Path) -> None:
    report = explained(write(tmp_path / "t.json", EVENTS))

    missing = {one.name: one.reason for one in report.sources if one.status == "unavailable"}
    assert "scheduler" in missing["ebpf"]
    assert "requests" in missing["ranges"]


def test_a_gzipped_trace_reads_the_same(tmp_path: Path) -> None:
    plain = write(tmp_path / "t.json", EVENTS)
    (tmp_path / "t.json.gz").write_bytes(gzip.compress(plain.read_bytes()))

    assert explained(tmp_path / "t.json.gz").windows[0].phases == explained(plain).windows[0].phases


@pytest.mark.parametrize(
    "damage",
    [
        {"ts": "soon"},
        {"ts": None},
        {"dur": -1},
        {"ts": float("nan")},
        {"ts": float("inf")},
        {"dur": 1e300},
        {"ts": True},
    ],
)
def test_a_damaged_event_is_left_out_and_counted(tmp_path: Path, damage: dict[str, Any]) -> None:
    trace = read_foreign(write(tmp_path / "t.json", [*EVENTS, {**EVENTS[1], **damage}]))

    assert trace.quality.lines() == ["records with values that cannot be, skipped: 1"]
    assert [(line.seen, line.decoded) for line in trace.ledger] == [(8, 7)]


@pytest.mark.parametrize(
    "more", [{"pid": "Spans"}, {"tid": [1]}, {"pid": -5}, {"args": [1]}, {"name": {"x": 1}}, {"name": "\x1b[31m\ud800"}]
)
def test_odd_fields_do_no_harm(tmp_path: Path, more: dict[str, Any]) -> None:
    explained(write(tmp_path / "t.json", [*EVENTS, {**EVENTS[1], **more}, 3, None, {"ph": "X"}]))


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"\x1f\x8bnot gzip", b'{"traceEvents": 3}', b'{"traceEvents": []}']
)
def test_what_is_no_trace_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.json").write_bytes(content)

    with pytest.raises(CaptureError):
        read_foreign(tmp_path / "t.json")


def test_an_unknown_annotation_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no annotation begins with 'train'"):
        read_foreign(write(tmp_path / "t.json", EVENTS), "train")


def test_copies_are_called_as_everywhere() -> None:
    assert copy_name("Memcpy HtoD (Pageable -> Device)") == "memcpy h2d pageable"
    assert copy_name("Memcpy DtoH (Device -> Pinned)") == "memcpy d2h pinned"
    assert copy_name("Memcpy DtoD (Device -> Device)") == "memcpy d2d"
    assert copy_name("Memcpy") == "Memcpy"


def test_the_command_explains_and_writes_a_timeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, timeline = write(tmp_path / "t.json", EVENTS), tmp_path / "t.pftrace"

    assert main(["import", str(path), "-o", str(timeline), "--range", "generate"]) == 0

    assert "compute.gpu_kernel" in capsys.readouterr().out
    assert read_embedded_breakdown(timeline)["windows"][0]["total_ns"] == 1_000_000


def test_a_thread_id_that_is_no_number_reaches_the_timeline_as_unknown(tmp_path: Path) -> None:
    path = write(tmp_path / "trace.json", [{**event("user_annotation", "generate", 0, 100), "pid": True, "tid": True}])

    assert main(["import", str(path), "-o", str(tmp_path / "trace.pftrace")]) == 0


@pytest.mark.hf
def test_a_real_profile_is_explained_to_the_nanosecond(tmp_path: Path) -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(3):
            with record_function("generate"):
                torch.nn.functional.relu(torch.randn(64, 64) @ torch.randn(64, 64)).sum()
    profiler.export_chrome_trace(str(tmp_path / "t.json"))

    report = explained(tmp_path / "t.json", "generate")

    assert len(report.windows) == 3
    assert all(ns_by_cause(report, index)[Cause.CPU_KERNEL] > 0 for index in range(3))
