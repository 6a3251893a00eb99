"""A process is there until its last thread has ended, whichever of them the window was about."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.attribute.attribution import attribute
from slmtrace.model.report import WindowReport
from slmtrace.model.sched import Out
from slmtrace.model.taxonomy import Cause, WindowKind
from slmtrace.model.trace import Window

from ..support.builders import TraceBuilder

END_NS = 1_000


@settings(max_examples=100, deadline=None)
@given(st.integers(100, 500), st.integers(501, END_NS - 1), st.booleans())
def test_after_a_threads_exit_the_last_one_of_its_process_goes_on(exit_ns: int, last_ns: int, is_mine: bool) -> None:
    builder = TraceBuilder()
    main, helper = builder.thread(1, 1), builder.thread(2, 1 if is_mine else 3)
    builder.run(main, 0, exit_ns, out=Out.EXIT)
    builder.run(helper, 0, last_ns, cpu=1, out=Out.EXIT)

    report: WindowReport = attribute(builder.build(), [Window(WindowKind.LOAD, 0, 0, END_NS, main)])[0]

    ns_by_cause = {share.cause: share.ns for share in report.causes}
    unseen_ns = END_NS - (last_ns if is_mine else exit_ns)
    assert ns_by_cause[Cause.NO_EVIDENCE] == unseen_ns
    assert sum(ns_by_cause.values()) == END_NS
    # Before its exit the window is about the thread itself, whatever the other did then.
    assert report.segments is not None
    before = report.segments.end_ns <= exit_ns
    assert report.segments.dur_ns[before & (report.segments.track == main)].sum() == exit_ns
