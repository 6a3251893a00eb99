"""Messages through shared memory, and the engine's queue: who is to blame for a wait that looks like work."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.attribute.attribution import attribute
from slmtrace.capture.layout import MARK_FIRST_TOKEN, MARK_REQUEST_END, RANGE_RECEIVE, RANGE_SEND, STEP
from slmtrace.model.events import EventKind, make_events, merge_events
from slmtrace.model.quality import Quality
from slmtrace.model.report import WindowReport
from slmtrace.model.sched import Out, WakeContext
from slmtrace.model.strings import Strings
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.model.trace import Trace, Window
from slmtrace.model.tracks import NO_TRACK, Tracks

from ..support.builders import TraceBuilder
from .planned import make_sched

END_NS = 1_000
SEGMENT = "/dev/shm/psm_1"


def explained(builder: TraceBuilder, sink: int, request: str = "") -> WindowReport:
    return attribute(builder.build(), [Window(WindowKind.TTFT, 0, 0, END_NS, sink, request)])[0]


def times_on(report: WindowReport, track: int) -> list[tuple[int, int]]:
    segments = report.segments
    assert segments is not None
    mine = segments.track == track
    return list(zip(segments.start_ns[mine].tolist(), segments.end_ns[mine].tolist(), strict=True))


def spinning_and_working(receive: tuple[int, int], send: tuple[int, int], runs: list[int]) -> TraceBuilder:
    """Make a thread that polls, its run cut into pieces by sched_yield, and one that works and sends."""
    builder = TraceBuilder()
    spinner, worker = builder.thread(1, 1), builder.thread(2, 2)
    bounds = [0, *runs, END_NS]
    for start_ns, end_ns in itertools.pairwise(bounds):
        builder.run(spinner, start_ns, end_ns, out=Out.PREEMPTED)
    builder.run(worker, 0, END_NS, cpu=1)
    for track, name, (start_ns, end_ns) in ((spinner, RANGE_RECEIVE, receive), (worker, RANGE_SEND, send)):
        builder.event(EventKind.RANGE, track, start_ns, end_ns - start_ns, name, file=SEGMENT)
    return builder


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, END_NS - 1), min_size=4, max_size=4, unique=True), st.sets(st.integers(1, END_NS - 1)))
def test_a_poller_hands_over_to_whoever_sent_what_it_waited_for(bounds: list[int], cuts: set[int]) -> None:
    received_from, sending, sent, received = sorted(bounds)
    builder = spinning_and_working((received_from, received), (sending, sent), sorted(cuts))

    report = explained(builder, sink=0)

    assert sum(end - start for start, end in times_on(report, 1)) == sent
    assert min(start for start, _ in times_on(report, 0)) == sent
    rows = [row for share in report.causes for row in share.detail["processes"]]
    assert sum(row["ns"] for row in rows if row["name"] == "process 2") == sent
    assert sum(row["ns"] for row in rows) == END_NS


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, END_NS - 1), min_size=4, max_size=4, unique=True))
def test_a_message_that_was_there_already_hands_nothing_over(bounds: list[int]) -> None:
    sending, sent, received_from, received = sorted(bounds)
    builder = spinning_and_working((received_from, received), (sending, sent), [])

    report = explained(builder, sink=0)

    assert times_on(report, 1) == []
    assert not any("processes" in share.detail for share in report.causes)


def test_messages_on_another_segment_do_not_matter() -> None:
    builder = spinning_and_working((100, 900), (200, 500), [])
    builder.event(EventKind.RANGE, builder.thread(3, 3), 600, 100, RANGE_SEND, file="/dev/shm/psm_2")

    report = explained(builder, sink=0)

    assert times_on(report, 1) == [(0, 200), (200, 500)]
    assert times_on(report, 2) == []


@settings(max_examples=100, deadline=None)
@given(st.integers(0, END_NS - 1), st.integers(1, END_NS), st.booleans())
def test_the_engines_work_while_a_request_is_queued_is_its_queue(start_ns: int, dur_ns: int, is_mine: bool) -> None:
    builder = TraceBuilder()
    engine = builder.thread(1, 1)
    builder.run(engine, 0, END_NS)
    builder.event(EventKind.RANGE, engine, 0, END_NS, "forward", stage=Stage.PREFILL)
    builder.event(
        EventKind.ASYNC, engine, start_ns, dur_ns, "queue", stage=Stage.QUEUE, request="a" if is_mine else "b"
    )

    report = explained(builder, sink=engine, request="a")

    queued_ns = sum(share.ns for share in report.causes if share.cause is Cause.ENGINE_QUEUE)
    assert queued_ns == (min(start_ns + dur_ns, END_NS) - start_ns if is_mine else 0)
    assert sum(report.phases.values()) == END_NS


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 400), st.integers(1, 400), st.integers(1, 200))
def test_what_the_engine_did_without_other_requests_is_no_queue(step_ns: int, dur_ns: int, decode_ns: int) -> None:
    builder = TraceBuilder()
    engine = builder.thread(1, 1)
    builder.run(engine, 0, END_NS)
    builder.event(EventKind.RANGE, engine, 0, END_NS, "forward", stage=Stage.PREFILL)
    builder.event(EventKind.ASYNC, engine, 100, 400, "queue", stage=Stage.QUEUE, request="a")
    builder.event(EventKind.ASYNC, engine, 500, 400, STEP, request="a")
    builder.event(EventKind.ASYNC, engine, step_ns, dur_ns, STEP, request="b")
    builder.event(EventKind.MARK, engine, step_ns + dur_ns + decode_ns, 0, MARK_REQUEST_END, request="b")

    report = explained(builder, sink=engine, request="a")

    queued_ns = sum(share.ns for share in report.causes if share.cause is Cause.ENGINE_QUEUE)
    assert queued_ns == max(0, min(step_ns + dur_ns + decode_ns, 500) - max(step_ns, 100))


times = st.integers(0, 60)
threads = st.integers(0, 3)
runs = st.lists(st.tuples(threads, times, st.integers(1, 20), st.sampled_from(list(Out))), max_size=20)
wakes = st.lists(st.tuples(threads, times, st.integers(NO_TRACK, 3), st.sampled_from(list(WakeContext))), max_size=20)
calls = st.lists(
    st.tuples(threads, times, st.integers(0, 30), st.sampled_from([RANGE_SEND, RANGE_RECEIVE]), st.integers(1, 2)),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(runs, wakes, calls, threads)
def test_any_messages_leave_a_partition_and_the_walk_ends(runs, wakes, calls, sink) -> None:  # type: ignore[no-untyped-def]
    tracks, strings = Tracks(), Strings()
    for tid in range(4):
        tracks.thread(100 + tid, 100 + tid)
    segments = [0, strings.intern("/dev/shm/a"), strings.intern("/dev/shm/b")]
    tables = [
        make_events(
            1, track=t, start_ns=s, end_ns=s + d, kind=EventKind.RANGE, name=strings.intern(name), file=segments[f]
        )
        for t, s, d, name, f in calls
    ]
    sched = make_sched([(t, s, s + d, out) for t, s, d, out in runs], wakes, [], end_ns=70)
    trace = Trace({}, merge_events(tables), tracks, strings, sched, [], [], [], Quality())

    report = attribute(trace, [Window(WindowKind.TTFT, 0, 3, 55, sink)])[0]

    assert report.segments is not None
    assert int(report.segments.dur_ns.sum()) == 52
    assert np.all(report.segments.dur_ns > 0)


def test_a_client_that_was_woken_too_early_waited_for_its_server() -> None:
    builder = TraceBuilder()
    client, server = builder.thread(1, 1), builder.thread(2, 2)
    builder.run(client, 0, 100)
    builder.wake(client, 200, by=server)  # by the headers of the answer
    builder.run(client, 900, END_NS)
    builder.run(server, 50, END_NS, cpu=1)
    builder.event(EventKind.MARK, server, 800, 0, MARK_FIRST_TOKEN, request="a")

    report = explained(builder, sink=client, request="a")

    assert times_on(report, client) == [(0, 50), (800, 900), (900, END_NS)]


def test_before_its_queue_a_request_went_its_own_way() -> None:
    builder = TraceBuilder()
    engine, receiver = builder.thread(1, 1), builder.thread(2, 1)
    builder.run(engine, 0, END_NS)
    builder.run(receiver, 0, 400, cpu=1)
    builder.event(EventKind.RANGE, receiver, 100, 300, "preprocess", stage=Stage.SUBMIT, request="a")
    builder.event(EventKind.ASYNC, engine, 400, 500, "queue", stage=Stage.QUEUE, request="a")
    builder.event(EventKind.RANGE, engine, 900, 100, "schedule", stage=Stage.SCHEDULE, request="a")

    report = explained(builder, sink=engine, request="a")

    assert times_on(report, receiver) == [(0, 100), (100, 400)]
    assert {share.stage: share.ns for share in report.stages} == {
        Stage.SUBMIT: 400,
        Stage.QUEUE: 500,
        Stage.SCHEDULE: 100,
    }


def test_a_shared_step_is_divided_as_its_tokens_are() -> None:
    builder = TraceBuilder()
    worker = builder.thread(1, 1)
    builder.run(worker, 0, END_NS)
    builder.event(EventKind.RANGE, worker, 0, END_NS, "forward", stage=Stage.PREFILL)
    builder.event(EventKind.ASYNC, worker, 200, 400, STEP, request="a", count=100, detail=400)
    builder.event(EventKind.ASYNC, worker, 600, 400, STEP, request="a", count=50, detail=50)

    report = explained(builder, sink=worker, request="a")

    (share,) = (share for share in report.causes if share.cause is Cause.CPU_KERNEL)
    assert {row["name"]: (row["ns"], row["count"]) for row in share.detail["batch"]} == {
        "tokens of this request": (100, 100),
        "tokens of other requests": (300, 300),
    }


def test_a_first_token_that_came_while_the_front_end_was_busy_came_from_the_engines_step() -> None:
    builder = TraceBuilder()
    front, engine = builder.thread(1, 1), builder.thread(2, 2)
    builder.run(front, 0, END_NS)
    builder.run(engine, 0, END_NS, cpu=1)
    builder.event(EventKind.RANGE, front, 0, 100, "receive", stage=Stage.RECEIVE, request="a")
    builder.event(EventKind.RANGE, engine, 150, 50, "schedule", stage=Stage.SCHEDULE, request="a")
    builder.event(EventKind.RANGE, engine, 200, 400, "forward", stage=Stage.PREFILL, request="a")
    builder.event(EventKind.ASYNC, engine, 200, 400, STEP, request="a")
    builder.event(EventKind.RANGE, engine, 600, 20, "update", stage=Stage.RETURN)

    report = explained(builder, sink=front, request="a")

    assert sum(end - start for start, end in times_on(report, engine)) == 600
    assert {share.stage: share.ns for share in report.stages}[Stage.PREFILL] == 400
