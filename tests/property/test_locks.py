"""Waits for locks: the interpreter's and an allocator's are the waiter's own, but for what stalled the holder."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.attribute.attribution import attribute
from slmtrace.capture.layout import FAULT_FILE, FAULT_MAJOR
from slmtrace.model.events import SYSCALL_ON_GIL, EventKind
from slmtrace.model.report import WindowReport
from slmtrace.model.sched import Out, WakeContext
from slmtrace.model.taxonomy import Cause, WindowKind
from slmtrace.model.trace import Window
from slmtrace.model.tracks import NO_TRACK

from ..support.builders import TraceBuilder

END_NS = 1_000
WAITER, HOLDER = 0, 1

bounds = st.lists(st.integers(2, END_NS - 2), min_size=4, max_size=4, unique=True).map(sorted)


def waiting(times: list[int], flags: int, context: WakeContext = WakeContext.TASK) -> TraceBuilder:
    """Let a thread wait on a futex, and another one that ran all the while wake it: called, slept, woken, running."""
    called, slept, woken, running = times
    builder = TraceBuilder()
    waiter, holder = builder.thread(1, 1), builder.thread(2, 1)
    builder.run(waiter, 0, slept)
    builder.wake(waiter, woken, by=holder, context=context)
    builder.run(waiter, running, END_NS)
    builder.run(holder, 0, END_NS, cpu=1)
    builder.event(EventKind.SYSCALL, waiter, called, running + 1 - called, "futex", flags=flags)
    return builder


def explained(builder: TraceBuilder) -> WindowReport:
    return attribute(builder.build(), [Window(WindowKind.LOAD, 0, 0, END_NS, WAITER)])[0]


def ns_of(report: WindowReport, cause: Cause) -> int:
    return sum(share.ns for share in report.causes if share.cause is cause)


def ns_on(report: WindowReport, track: int) -> int:
    assert report.segments is not None
    return int(report.segments.dur_ns[report.segments.track == track].sum())


@settings(max_examples=100, deadline=None)
@given(bounds, st.sampled_from([WakeContext.TASK, WakeContext.TIMER, WakeContext.SOFTIRQ]))
def test_a_wait_for_the_gil_is_the_waiters_own_whatever_its_holder_computed(
    times: list[int], context: WakeContext
) -> None:
    called, _, woken, running = times

    report = explained(waiting(times, SYSCALL_ON_GIL, context))

    assert ns_on(report, HOLDER) == 0
    assert ns_of(report, Cause.RUN_QUEUE) == running - woken
    assert ns_of(report, Cause.GIL_WAIT) == (woken - called) + 1  # and the call's own way out


@settings(max_examples=100, deadline=None)
@given(bounds, st.lists(st.integers(1, END_NS - 1), min_size=2, max_size=2, unique=True).map(sorted))
def test_what_stalled_the_holder_is_what_the_waiter_waited_for(times: list[int], stall: list[int]) -> None:
    called, slept, woken, running = times
    builder = waiting(times, SYSCALL_ON_GIL)
    builder.event(EventKind.FAULT, HOLDER, stall[0], stall[1] - stall[0], flags=FAULT_FILE)

    report = explained(builder)

    stalled_ns = max(0, min(stall[1], woken) - max(stall[0], slept))
    assert ns_of(report, Cause.FILE_MINOR_FAULT) == ns_on(report, HOLDER) == stalled_ns
    assert ns_of(report, Cause.GIL_WAIT) == (woken - called) + 1 - stalled_ns
    assert ns_of(report, Cause.RUN_QUEUE) == running - woken


def test_a_holder_that_slept_in_a_stall_is_followed_off_its_cpu() -> None:
    builder = TraceBuilder()
    waiter, holder = builder.thread(1, 1), builder.thread(2, 1)
    for start_ns, end_ns in ((0, 100), (800, END_NS)):
        builder.run(waiter, start_ns, end_ns)
    builder.run(holder, 0, 300, cpu=1, out=Out.IOWAIT)
    builder.run(holder, 500, END_NS, cpu=1)
    builder.wake(holder, 480, context=WakeContext.SOFTIRQ)
    builder.event(EventKind.FAULT, holder, 250, 350, flags=FAULT_FILE | FAULT_MAJOR)
    builder.event(EventKind.SYSCALL, waiter, 99, 702, "futex", flags=SYSCALL_ON_GIL)
    builder.wake(waiter, 800, by=holder)

    report = explained(builder)

    assert ns_of(report, Cause.MAJOR_FAULT) == 350 - 20
    assert ns_of(report, Cause.RUN_QUEUE) == 20
    assert ns_of(report, Cause.GIL_WAIT) == 702 - 350


def test_what_stalled_the_holder_before_it_had_the_lock_stalled_nobody_else() -> None:
    builder = waiting([100, 200, 700, 800], SYSCALL_ON_GIL)
    builder.event(EventKind.FAULT, HOLDER, 250, 100, flags=FAULT_FILE)
    builder.event(EventKind.SYSCALL, HOLDER, 400, 100, "futex", flags=SYSCALL_ON_GIL)

    assert ns_of(explained(builder), Cause.FILE_MINOR_FAULT) == 0


def test_a_holder_that_had_waited_itself_leads_to_the_holder_before_it() -> None:
    builder = waiting([100, 200, 700, 800], SYSCALL_ON_GIL)
    first = builder.thread(3, 1)
    builder.run(first, 0, END_NS, cpu=2)
    builder.event(EventKind.FAULT, first, 250, 100, flags=FAULT_FILE)
    builder.event(EventKind.SYSCALL, HOLDER, 210, 290, "futex", flags=SYSCALL_ON_GIL)
    builder.wake(HOLDER, 490, by=first)

    report = explained(builder)

    assert ns_of(report, Cause.FILE_MINOR_FAULT) == ns_on(report, first) == 100


def test_threads_that_each_seem_to_have_had_the_lock_from_the_other_end_the_search() -> None:
    builder = waiting([100, 200, 700, 800], SYSCALL_ON_GIL)
    other = builder.thread(3, 1)
    builder.run(other, 0, END_NS, cpu=2)
    for thread, waker in ((HOLDER, other), (other, HOLDER)):
        builder.event(EventKind.SYSCALL, thread, 150, 700, "futex", flags=SYSCALL_ON_GIL)
        builder.wake(thread, 840, by=waker)

    assert ns_of(explained(builder), Cause.GIL_WAIT) == 601


@settings(max_examples=100, deadline=None)
@given(bounds)
def test_a_wait_for_a_programs_lock_leads_to_its_holder(times: list[int]) -> None:
    _, _, woken, _ = times

    report = explained(waiting(times, 0))

    assert ns_on(report, HOLDER) == woken
    assert ns_of(report, Cause.GIL_WAIT) == 0


@settings(max_examples=100, deadline=None)
@given(bounds)
def test_a_wait_inside_malloc_is_for_an_arena(times: list[int]) -> None:
    called, _, woken, running = times
    builder = waiting(times, 0)
    builder.event(EventKind.MALLOC, WAITER, called - 1, running + 2 - (called - 1), "malloc")

    report = explained(builder)

    assert ns_on(report, HOLDER) == 0
    assert ns_of(report, Cause.ARENA_WAIT) == (woken - called) + 1


def test_a_wait_beside_malloc_is_not_for_an_arena() -> None:
    builder = waiting([100, 200, 300, 400], 0)
    builder.event(EventKind.MALLOC, WAITER, 50, 40, "malloc")
    builder.event(EventKind.MALLOC, HOLDER, 50, 600, "malloc")

    report = explained(builder)

    assert ns_of(report, Cause.ARENA_WAIT) == 0
    assert ns_on(report, HOLDER) == 300


def test_a_gil_wait_that_timed_out_again_and_again_is_one_wait() -> None:
    builder = TraceBuilder()
    waiter = builder.thread(1, 1)
    builder.run(waiter, 0, 100)
    for start_ns in (100, 300, 500):
        builder.wake(waiter, start_ns + 190, context=WakeContext.TIMER)
        builder.run(waiter, start_ns + 190, start_ns + 200)
        builder.event(EventKind.SYSCALL, waiter, start_ns - 1, 196, "futex", flags=SYSCALL_ON_GIL)
    builder.run(waiter, 700, END_NS)

    report = explained(builder)

    assert ns_of(report, Cause.GIL_WAIT) == 3 * 196
    assert ns_of(report, Cause.LOCK_WAIT) == 0


def holders_of(report: WindowReport) -> dict[str, int]:
    (share,) = (share for share in report.causes if share.cause is Cause.GIL_WAIT)
    return {row["name"]: row["ns"] for row in share.detail["holders"]}


def test_the_holder_of_the_gil_is_named_by_what_it_was_in() -> None:
    builder = waiting([100, 200, 300, 400], SYSCALL_ON_GIL)
    builder.event(EventKind.RANGE, HOLDER, 150, 200, "Scheduler.schedule")

    # From the call on: its way to sleep is part of the wait.
    assert holders_of(explained(builder)) == {"Scheduler.schedule": 200}


def test_a_wait_that_timed_out_was_for_whoever_gave_the_lock_up_in_the_end() -> None:
    builder = TraceBuilder()
    waiter, holder = builder.thread(1, 1), builder.thread(2, 1)
    builder.run(holder, 0, END_NS, cpu=1)
    builder.event(EventKind.RANGE, holder, 650, 100, "tokenizer")
    for start_ns, end_ns, by, context in (
        (100, 300, NO_TRACK, WakeContext.TIMER),
        (310, 700, holder, WakeContext.TASK),
    ):
        builder.event(EventKind.SYSCALL, waiter, start_ns, end_ns - start_ns, "futex", flags=SYSCALL_ON_GIL)
        builder.wake(waiter, end_ns, by=by, context=context)
    for start_ns, end_ns in ((0, 100), (300, 310), (700, END_NS)):
        builder.run(waiter, start_ns, end_ns)

    assert holders_of(explained(builder)) == {"tokenizer": 590}


def test_who_had_the_lock_before_its_last_holder_had_it_while_an_earlier_wait_timed_out() -> None:
    builder = TraceBuilder()
    waiter, first, last = (builder.thread(tid, 1) for tid in (1, 2, 3))
    builder.run(first, 0, END_NS, cpu=1)
    builder.event(EventKind.FAULT, first, 120, 560, flags=FAULT_FILE)
    # It gave the lock up at 690, and waits for it again before the last holder's call has returned.
    for thread, start_ns, end_ns, woken_ns, by, context in (
        (waiter, 100, 300, 300, NO_TRACK, WakeContext.TIMER),
        (waiter, 310, 800, 800, last, WakeContext.TASK),
        (first, 700, 850, 840, last, WakeContext.TASK),
        (last, 150, 720, 690, first, WakeContext.TASK),
    ):
        builder.event(EventKind.SYSCALL, thread, start_ns, end_ns - start_ns, "futex", flags=SYSCALL_ON_GIL)
        builder.wake(thread, woken_ns, by=by, context=context)
    for start_ns, end_ns in ((0, 100), (300, 310), (800, END_NS)):
        builder.run(waiter, start_ns, end_ns)
    for start_ns, end_ns in ((0, 150), (690, END_NS)):
        builder.run(last, start_ns, end_ns, cpu=2)

    report = explained(builder)

    assert ns_of(report, Cause.FILE_MINOR_FAULT) == (300 - 120) + (680 - 310)
    assert ns_of(report, Cause.GIL_WAIT) == (120 - 100) + (800 - 680)
