"""Spin loops: who spun was held up by the thread of its process that had been busy longest."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.attribute.attribution import attribute
from slmtrace.capture.layout import FAULT_FILE, FAULT_MAJOR
from slmtrace.model.events import EventKind
from slmtrace.model.report import WindowReport
from slmtrace.model.sched import Out, WakeContext
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.model.trace import Window

from ..support.builders import TraceBuilder

END_NS = 1_000
SPINNER, OTHER = 0, 1

spans = st.lists(st.integers(1, END_NS - 1), min_size=2, max_size=2, unique=True).map(sorted)


def spinning(start_ns: int, end_ns: int) -> TraceBuilder:
    """Let a thread run for the whole window, and spin between two instants."""
    builder = TraceBuilder()
    spinner = builder.thread(1, 1)
    builder.thread(2, 1)
    builder.run(spinner, 0, END_NS)
    builder.event(EventKind.SPIN, spinner, start_ns, end_ns - start_ns)
    return builder


def explained(builder: TraceBuilder) -> WindowReport:
    return attribute(builder.build(), [Window(WindowKind.LOAD, 0, 0, END_NS, SPINNER)])[0]


def ns_of(report: WindowReport, cause: Cause) -> int:
    return sum(share.ns for share in report.causes if share.cause is cause)


def ns_on_other(report: WindowReport) -> int:
    assert report.segments is not None
    return int(report.segments.dur_ns[report.segments.track == OTHER].sum())


@settings(max_examples=100, deadline=None)
@given(spans, spans)
def test_what_stalled_the_other_thread_is_what_the_spinner_waited_for(spin: list[int], stall: list[int]) -> None:
    builder = spinning(*spin)
    builder.run(OTHER, 0, stall[0], cpu=1, out=Out.IOWAIT)
    builder.run(OTHER, stall[1], END_NS, cpu=1)
    builder.event(EventKind.FAULT, OTHER, stall[0], stall[1] - stall[0], flags=FAULT_FILE | FAULT_MAJOR)

    report = explained(builder)

    assert ns_of(report, Cause.MAJOR_FAULT) == max(0, min(spin[1], stall[1]) - max(spin[0], stall[0]))
    assert ns_on_other(report) == spin[1] - spin[0]


@settings(max_examples=100, deadline=None)
@given(spans, spans)
def test_a_queue_for_a_cpu_is_waited_for_too(spin: list[int], queue: list[int]) -> None:
    builder = spinning(*spin)
    builder.run(OTHER, 0, queue[0], cpu=1, out=Out.PREEMPTED)
    builder.run(OTHER, queue[1], END_NS, cpu=1)

    report = explained(builder)

    assert ns_of(report, Cause.RUN_QUEUE) == max(0, min(spin[1], queue[1]) - max(spin[0], queue[0]))


@settings(max_examples=100, deadline=None)
@given(spans, spans)
def test_who_was_woken_and_has_no_cpu_yet_is_waited_for(spin: list[int], queue: list[int]) -> None:
    builder = spinning(*spin)
    builder.run(OTHER, 0, 1, cpu=1)
    builder.wake(OTHER, queue[0], by=SPINNER)
    builder.run(OTHER, queue[1], END_NS, cpu=1)

    report = explained(builder)

    assert ns_of(report, Cause.RUN_QUEUE) == max(0, min(spin[1], queue[1]) - max(spin[0], queue[0]))
    assert ns_on_other(report) == max(0, spin[1] - max(spin[0], queue[0]))


def test_a_thread_that_has_not_run_yet_is_waited_for() -> None:
    builder = spinning(300, 900)
    builder.fork(OTHER, 400, by=SPINNER)

    assert ns_of(explained(builder), Cause.PROCESS_SPAWN) == 500


@settings(max_examples=100, deadline=None)
@given(spans, st.integers(1, END_NS - 1))
def test_before_the_other_thread_had_anything_to_do_the_spin_is_the_spinners_own(spin: list[int], woke_ns: int) -> None:
    builder = spinning(*spin)
    builder.run(OTHER, woke_ns, END_NS, cpu=1)

    report = explained(builder)

    assert ns_on_other(report) == max(0, spin[1] - max(spin[0], woke_ns))


@settings(max_examples=100, deadline=None)
@given(spans, spans)
def test_a_sleep_of_whom_the_spinner_waited_for_is_waited_for_too(spin: list[int], sleep: list[int]) -> None:
    builder = spinning(*spin)
    builder.run(OTHER, 0, sleep[0], cpu=1)
    builder.event(EventKind.SYSCALL, OTHER, sleep[0], sleep[1] - sleep[0], "clock_nanosleep")
    builder.wake(OTHER, sleep[1], context=WakeContext.TIMER)
    builder.run(OTHER, sleep[1], END_NS, cpu=1)

    report = explained(builder)

    # Whom a spin waits for is known from who is busy at its end.
    waited_ns = max(0, sleep[1] - max(spin[0], sleep[0])) if spin[1] > sleep[1] else 0
    assert ns_of(report, Cause.LOCK_WAIT) == waited_ns


def test_the_request_s_own_sleep_is_waited_for_by_its_spinning_helper() -> None:
    builder = TraceBuilder()
    main, helper = builder.thread(1, 1), builder.thread(2, 1)
    builder.event(EventKind.RANGE, main, 0, END_NS, "prefill", stage=Stage.PREFILL)
    builder.run(main, 0, 300)
    builder.event(EventKind.SYSCALL, main, 300, 300, "clock_nanosleep")
    builder.wake(main, 600, context=WakeContext.TIMER)
    builder.run(main, 600, 700)
    builder.run(helper, 100, 900, cpu=1)
    builder.event(EventKind.SPIN, helper, 250, 300)
    builder.wake(main, 900, by=helper)
    builder.run(main, 900, END_NS)

    assert ns_of(explained(builder), Cause.LOCK_WAIT) == 250


@settings(max_examples=100, deadline=None)
@given(spans)
def test_a_thread_that_spins_holds_nobody_up(spin: list[int]) -> None:
    builder = spinning(*spin)
    builder.run(OTHER, 0, END_NS, cpu=1)
    builder.event(EventKind.SPIN, OTHER, 0, END_NS)

    report = explained(builder)

    assert ns_on_other(report) == 0


def test_among_several_the_one_that_has_been_busy_longest_counts() -> None:
    builder = spinning(300, 900)
    late = builder.thread(3, 1)
    builder.run(OTHER, 100, END_NS, cpu=1)
    builder.run(late, 800, END_NS, cpu=2)

    assert ns_on_other(explained(builder)) == 600


def test_how_a_call_of_a_driver_waits_is_its_own_affair() -> None:
    builder = spinning(300, 900)
    builder.run(OTHER, 0, END_NS, cpu=1)
    builder.event(EventKind.CUDA_API, SPINNER, 250, 700, "cuStreamSynchronize")

    report = explained(builder)

    assert ns_on_other(report) == 0
    assert ns_of(report, Cause.GPU_KERNEL) == 700
