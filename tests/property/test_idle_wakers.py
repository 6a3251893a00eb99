"""A waker that had been idle holds up others only from when they wait for it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.attribute.attribution import attribute
from slmtrace.model.events import EventKind
from slmtrace.model.report import WindowReport
from slmtrace.model.sched import WakeContext
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.model.trace import Window
from slmtrace.model.tracks import NO_TRACK

from ..support.builders import TraceBuilder

END_NS = 1_000
LOCKED_NS = 900  # the main thread meets a lock that another holds, and has it 20 ns later


def explained(builder: TraceBuilder, main: int) -> dict[Cause, int]:
    report: WindowReport = attribute(builder.build(), [Window(WindowKind.LOAD, 0, 0, END_NS, main)])[0]
    return {share.cause: share.ns for share in report.causes}


def busy_main(builder: TraceBuilder) -> int:
    """Make a thread that compiles all the time, but for a short wait."""
    main = builder.thread(1, 1)
    builder.event(EventKind.RANGE, main, 0, END_NS, "compile", stage=Stage.COMPILE)
    builder.run(main, 0, LOCKED_NS)
    builder.run(main, LOCKED_NS + 20, END_NS)
    return main


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(301, LOCKED_NS - 1))
def test_a_background_thread_that_lets_a_lock_go_was_not_what_the_main_thread_waited_for(
    slept_ns: int, woken_ns: int
) -> None:
    builder = TraceBuilder()
    main = busy_main(builder)
    keeper = builder.thread(2, 1)
    builder.run(keeper, 0, slept_ns, cpu=1)
    builder.wake(keeper, woken_ns, context=WakeContext.TIMER)
    builder.run(keeper, woken_ns, LOCKED_NS + 20, cpu=1)
    builder.wake(main, LOCKED_NS + 20, by=keeper)

    causes = explained(builder, main)

    assert causes[Cause.TORCH_COMPILE] >= END_NS - (LOCKED_NS + 20 - woken_ns)
    assert Cause.LOCK_WAIT not in causes


@settings(max_examples=100, deadline=None)
@given(st.integers(100, 500))
def test_a_thread_that_waits_for_an_idle_one_is_held_up_from_when_it_waits(slept_ns: int) -> None:
    builder = TraceBuilder()
    main, poller = builder.thread(1, 1), builder.thread(2, 1)
    builder.event(EventKind.RANGE, main, 0, END_NS, "compile", stage=Stage.COMPILE)
    builder.run(main, 0, slept_ns)
    builder.run(poller, 0, 50, cpu=1)
    builder.wake(poller, LOCKED_NS, by=NO_TRACK, context=WakeContext.TIMER)
    builder.run(poller, LOCKED_NS, LOCKED_NS + 10, cpu=1)
    builder.wake(main, LOCKED_NS + 10, by=poller)
    builder.run(main, LOCKED_NS + 10, END_NS)

    causes = explained(builder, main)

    assert causes[Cause.LOCK_WAIT] == LOCKED_NS - slept_ns
    assert sum(causes.values()) == END_NS
