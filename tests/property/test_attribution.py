"""The invariants of attribution, on traces with a planned answer and on arbitrary ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.attribute.attribution import attribute
from slmtrace.model.events import EventKind, make_events, merge_events
from slmtrace.model.quality import Quality
from slmtrace.model.report import WindowReport
from slmtrace.model.sched import Out, WakeContext, empty_sched
from slmtrace.model.strings import Strings
from slmtrace.model.taxonomy import Cause, Phase, Stage, WindowKind
from slmtrace.model.trace import Trace, Window
from slmtrace.model.tracks import NO_TRACK, Tracks

from .planned import SHOWN, START_NS, Act, Builder, Planned, build, decoys, make_sched, plans

EXAMPLES = settings(max_examples=120, deadline=None)


def explained(planned: Planned) -> WindowReport:
    return attribute(planned.trace, [planned.window])[0]


def by_cause(report: WindowReport) -> Counter[Cause]:
    return Counter({share.cause: share.ns for share in report.causes if share.ns})


def assert_conserved(report: WindowReport) -> None:
    assert sum(report.phases.values()) == report.total_ns
    assert sum(share.ns for share in report.stages) == report.total_ns
    for stage in report.stages:
        assert sum(stage.phases.values()) == stage.ns
    for phase in Phase:
        assert sum(s.ns for s in report.causes if s.cause.phase is phase) == report.phases[phase]


@EXAMPLES
@given(plans)
def test_attribution_recovers_the_planned_answer(plan: list[Act]) -> None:
    planned = build(plan)

    report = explained(planned)

    assert by_cause(report) == planned.by_cause
    assert_conserved(report)


@EXAMPLES
@given(plans, decoys)
def test_what_is_off_the_path_does_not_matter(plan: list[Act], off_path: list[tuple[int, int, Cause]]) -> None:
    report = explained(build(plan, off_path))

    assert by_cause(report) == build(plan).by_cause


def test_what_a_thread_beside_the_path_ran_and_waited_for_is_overlapped() -> None:
    builder = Builder()
    builder.run(Act("run", 1000))
    beside = builder.tracks.thread(5000, 200)
    builder.runs += [
        (beside, START_NS + 100, START_NS + 200, Out.IOWAIT),
        (beside, START_NS + 500, START_NS + 600, Out.SLEEP),
    ]

    overlapped = explained(builder.build()).overlapped

    assert {phase: ns for phase, ns in overlapped.items() if ns} == {Phase.STORAGE: 300, Phase.RUNTIME: 200}


@EXAMPLES
@given(plans, st.integers(0, 10**15))
def test_a_shift_in_time_does_not_matter(plan: list[Act], offset_ns: int) -> None:
    report = explained(build(plan, offset_ns=offset_ns))

    assert by_cause(report) == by_cause(explained(build(plan)))


@EXAMPLES
@given(plans, st.integers(2, 1000))
def test_a_slower_clock_scales_every_cause(plan: list[Act], factor: int) -> None:
    slower = [Act(act.what, act.dur_ns * factor, act.cause, act.extra_ns * factor) for act in plan]

    report = explained(build(slower))

    assert by_cause(report) == build(slower).by_cause


@EXAMPLES
@given(plans, st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(plan: list[Act], seed: int) -> None:
    report = explained(build(plan, order=np.random.default_rng(seed)))

    assert by_cause(report) == by_cause(explained(build(plan)))


@EXAMPLES
@given(plans, st.data(), st.integers(1, 1_000_000))
def test_a_longer_act_adds_to_its_own_cause_alone(plan: list[Act], data: st.DataObject, more_ns: int) -> None:
    chosen = data.draw(st.integers(0, len(plan) - 1))
    act = plan[chosen]
    longer = [*plan[:chosen], Act(act.what, act.dur_ns + more_ns, act.cause, act.extra_ns), *plan[chosen + 1 :]]

    grown = by_cause(explained(build(longer)))
    grown.subtract(by_cause(explained(build(plan))))

    changed = {cause: ns for cause, ns in grown.items() if ns}
    assert changed in ({}, {_cause_of(act): more_ns})
    assert changed or act.what == "hand_back"  # with nobody to hand back to, nothing happens


def _cause_of(act: Act) -> Cause:
    if act.what in ("run",):
        return Cause.PYTHON
    return Cause.RUN_QUEUE if act.what in ("preempted", "hand_over", "hand_back") else act.cause


@EXAMPLES
@given(plans)
def test_a_segment_lies_inside_its_event(plan: list[Act]) -> None:
    planned = build(plan)

    segments = explained(planned).segments

    assert segments is not None
    known = segments.event >= 0
    events = planned.trace.events
    assert (segments.start_ns[known] >= events.start_ns[segments.event[known]]).all()
    assert (segments.end_ns[known] <= events.end_ns[segments.event[known]]).all()


@EXAMPLES
@given(plans)
def test_without_scheduler_records_time_goes_to_the_parent_or_to_unattributed(plan: list[Act]) -> None:
    planned = build(plan)
    trace = planned.trace
    blind = Trace({}, trace.events, trace.tracks, trace.strings, empty_sched(), [], [], [], Quality())

    report = attribute(blind, [planned.window])[0]

    assert_conserved(report)
    shown = {cause for cause in by_cause(report) if cause is not Cause.NO_EVIDENCE}
    assert shown <= {*SHOWN, Cause.GIL_WAIT}  # a system call says by itself what it was about
    for cause in shown:
        # Without the scheduler, the waits inside a fault or a call are not told apart.
        if cause not in (Cause.FILE_MINOR_FAULT, Cause.GIL_WAIT):
            assert by_cause(report)[cause] <= planned.by_cause[cause]


times = st.integers(0, 60)
arbitrary_runs = st.lists(
    st.tuples(st.integers(0, 4), times, st.integers(1, 20), st.sampled_from(list(Out))), max_size=30
)
arbitrary_wakes = st.lists(
    st.tuples(st.integers(0, 4), times, st.integers(NO_TRACK, 4), st.sampled_from(list(WakeContext))), max_size=30
)
arbitrary_forks = st.lists(st.tuples(st.integers(0, 4), times, st.integers(NO_TRACK, 4)), max_size=5)
arbitrary_events = st.lists(
    st.tuples(
        st.integers(0, 4),
        times,
        st.integers(-5, 30),
        st.sampled_from(list(EventKind)),
        st.sampled_from([*Stage, 255]),
        st.integers(0, 12),
        st.integers(0, 40),
    ),
    max_size=30,
)


@settings(max_examples=300, deadline=None)
@given(
    arbitrary_runs, arbitrary_wakes, arbitrary_forks, arbitrary_events, st.integers(0, 4), st.sampled_from(WindowKind)
)
def test_any_input_is_partitioned_and_ends(runs, wakes, forks, rows, sink, kind) -> None:  # type: ignore[no-untyped-def]
    tracks = Tracks()
    for tid in range(5):
        tracks.thread(100 + tid, 100)
    tables = [
        make_events(1, track=t, start_ns=s, end_ns=s + d, kind=k, stage=stage, flags=f, work_ns=w, count=1, request=0)
        for t, s, d, k, stage, f, w in rows
    ]
    sched = make_sched([(t, s, s + d, out) for t, s, d, out in runs], wakes, forks, end_ns=70)
    trace = Trace({}, merge_events(tables), tracks, Strings(), sched, [], [], [], Quality())

    report = attribute(trace, [Window(kind, 0, 3, 55, sink)])[0]

    assert_conserved(report)
    assert report.segments is not None
    assert int(report.segments.dur_ns.sum()) == 52
