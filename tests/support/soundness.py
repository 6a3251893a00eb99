"""What must hold for every timeline, asked in SQL through Perfetto's own engine."""

from __future__ import annotations

from typing import Any

from slmtrace.output.json_ import check_conservation
from slmtrace.output.perfetto.header import BREAKDOWN_KEY

from .trace_processor import TraceProcessor

_PATH_BY_WINDOW = """
    select coalesce(extract_arg(slice.arg_set_id, 'debug.window'), 'load') as window, sum(slice.dur) as dur,
           min(slice.ts) as first_ts, max(slice.ts + slice.dur) as last_ts
    from slice join track on slice.track_id = track.id
    where track.name = 'critical path' group by 1
"""
_PHASES_BY_WINDOW = """
    select coalesce(extract_arg(arg_set_id, 'debug.window'), 'load') as window,
           extract_arg(arg_set_id, 'debug.phase') as phase, sum(dur) as dur
    from slice where category = 'critical_path' group by 1, 2
"""


def assert_trace_is_sound(tp: TraceProcessor, breakdown: dict[str, Any]) -> None:
    """Check that nothing was lost or bent on the way into the engine, and that the path agrees with the breakdown."""
    assert tp.query("select name, value from stats where severity != 'info' and value != 0") == []
    assert tp.query("select name, value from stats where name like '%error%' and value != 0") == []
    assert_slices_nest(tp)
    assert tp.one(f"select count(*) from metadata where name = 'cr-{BREAKDOWN_KEY}'") == 1
    assert check_conservation(breakdown) == []
    assert_path_fills_windows(tp, breakdown)


def assert_slices_nest(tp: TraceProcessor) -> None:
    """Check that every slice ended, none outlives its parent, and there are as many as were written."""
    assert tp.one("select count(*) from slice where dur < 0") == 0
    crossing = "select count(*) from slice c join slice p on c.parent_id = p.id"
    assert tp.one(f"{crossing} where c.ts < p.ts or c.ts + c.dur > p.ts + p.dur") == 0
    written = tp.one("select int_value from metadata where name like 'cr-%slmtrace.slices'")
    # Instants are slices without a length; Perfetto's own thread slices are of other categories.
    assert tp.one("select count(*) from slice where dur > 0 and category is not null") == written


def assert_path_fills_windows(tp: TraceProcessor, breakdown: dict[str, Any]) -> None:
    """Check that the critical path's slices sum to each window, and by phase to the breakdown's."""
    labels = [_label(window) for window in breakdown["windows"]]
    path = {row["window"]: row for row in tp.query(_PATH_BY_WINDOW)}
    assert sorted(path) == sorted(labels)
    phases = {(row["window"], row["phase"]): row["dur"] for row in tp.query(_PHASES_BY_WINDOW)}
    for window, label in zip(breakdown["windows"], labels, strict=True):
        assert path[label]["dur"] == window["total_ns"]
        assert path[label]["last_ts"] - path[label]["first_ts"] == window["total_ns"]
        expected = {(label, phase): ns for phase, ns in window["phases"].items() if ns}
        assert {key: ns for key, ns in phases.items() if key[0] == label} == expected


def assert_thread_states_are_there(tp: TraceProcessor) -> None:
    """Check that Perfetto made running, sleeping and waking states of the scheduler's records."""
    states = {row["state"] for row in tp.query("select distinct state from thread_state")}
    assert {"Running", "S"} <= states
    assert tp.one("select count(*) from thread_state where state = 'Running' and dur > 0") > 0
    # ftrace's states past the last known letter show as such when prev_state is not encoded as ftrace does.
    assert states <= {"Running", "S", "D", "R", "R+", "I", "X", "Z", "T", "t", "P"}


def _label(window: dict[str, Any]) -> str:
    return "load" if window["name"] == "load" else f"{window['name']} {window['index']}"
