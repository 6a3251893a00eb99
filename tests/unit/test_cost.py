"""What the report says that recording cost a window: what was recorded on its path, at the recorders' own prices."""

from __future__ import annotations

from slmtrace.attribute.attribution import attribute
from slmtrace.attribute.cost import recording_cost
from slmtrace.capture.layout import FoldClass
from slmtrace.model.events import EventKind
from slmtrace.model.taxonomy import Stage, WindowKind
from slmtrace.model.trace import Window
from tests.support.builders import MS, TraceBuilder

PRICES = {
    "ranges": {"ns_per_record": 1_000.0},
    "ebpf": {"ns_per_run": {"on_sys_enter": 100.0, "on_sys_exit": 100.0, "on_switch": 10.0}},
}


def test_what_a_thread_beside_the_path_recorded_cost_the_window_nothing() -> None:
    builder = TraceBuilder()
    main, beside = builder.thread(100, 100), builder.thread(101, 100)
    for track in (main, beside):
        builder.event(EventKind.RANGE, track, 0, MS, "prefill", stage=Stage.PREFILL)
        builder.run(track, 0, MS)
    builder.event(EventKind.FOLD, main, 100, 50, flags=FoldClass.OTHER_SYSCALL, count=3)
    builder.event(EventKind.FOLD, beside, 100, 50, flags=FoldClass.OTHER_SYSCALL, count=1000)
    trace = builder.build()
    trace.manifest["overhead"] = PRICES

    costs = recording_cost(trace, attribute(trace, [Window(WindowKind.TTFT, 0, 0, MS, main)]))["windows"]

    assert costs[0]["ns"] == 1_000 + 3 * 200 + 10
