"""Waits for the GPU on traces with a planned answer, and on arbitrary ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.attribute.attribution import attribute
from slmtrace.attribute.cost import recording_cost
from slmtrace.model.events import EventKind
from slmtrace.model.report import WindowReport
from slmtrace.model.sched import WakeContext
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.model.trace import Trace, Window
from slmtrace.model.tracks import GPU_PROCESS_SHIFT, TrackKind
from tests.support.builders import MS, T0_NS, TraceBuilder

EXAMPLES = settings(max_examples=100, deadline=None)
PID, OTHER_PID, STREAM = 100, 200, 7
LARGE_BYTES = 1 << 20

WORKS = {
    Cause.GPU_KERNEL: (EventKind.GPU_KERNEL, "gemm"),
    Cause.H2D_PINNED: (EventKind.GPU_MEMCPY, "memcpy h2d pinned"),
    Cause.D2H: (EventKind.GPU_MEMCPY, "memcpy d2h pinned"),
}


@dataclass(frozen=True)
class Act:
    """One thing that the host does: what, and the lengths of its parts."""

    what: str
    parts: tuple[tuple[Cause, int, int], ...] = ()  # of a wait: work, its length, the gap before it
    dur_ns: int = 1
    is_asleep: bool = False


durations = st.integers(1, 1_000_000)
works = st.tuples(st.sampled_from(sorted(WORKS)), durations, st.integers(0, 100_000))
waits = st.builds(Act, st.just("wait"), st.lists(works, max_size=6).map(tuple), durations, st.booleans())
copies = st.builds(Act, st.just("copy"), st.lists(works, min_size=1, max_size=3).map(tuple), durations)
others = st.builds(Act, st.sampled_from(["run", "pinned_copy", "late_launch"]), st.just(()), durations)
plans = st.lists(st.one_of(waits, copies, others), min_size=1, max_size=12)


@dataclass
class Planner:
    """Lays acts of one host thread end to end, and keeps the truth."""

    builder: TraceBuilder = field(default_factory=TraceBuilder)
    truth: Counter[Cause] = field(default_factory=Counter)
    now: int = T0_NS
    correlation: int = 0
    run_start: int = T0_NS

    def __post_init__(self) -> None:
        self.main, self.helper = self.builder.thread(PID, PID), self.builder.thread(PID + 1, PID)
        self.stream = self.add_stream(0, PID, STREAM)
        self.run(Act("run", dur_ns=MS))
        # Every plan has some GPU work, long before its waits.
        self.work(Cause.GPU_KERNEL, T0_NS, 10)

    def add_stream(self, device: int, pid: int, stream: int) -> int:
        key = pid << GPU_PROCESS_SHIFT | stream
        return self.builder.tracks.other(TrackKind.GPU_STREAM, device, key, f"stream {stream}")

    def run(self, act: Act) -> None:
        self.truth[Cause.PYTHON] += act.dur_ns
        self.now += act.dur_ns

    def wait(self, act: Act) -> None:
        """A synchronising call around some works, each after a gap; it returns a while after the last."""
        start = self.now
        for cause, dur, gap in act.parts:
            self.truth[Cause.LAUNCH] += gap
            self.work(cause, self.now + gap, dur)
            self.truth[cause] += dur
            self.now += gap + dur
        self.truth[Cause.LAUNCH] += act.dur_ns
        self.now += act.dur_ns
        self.call("cudaStreamSynchronize", start, self.now)
        self.builder.event(
            EventKind.GPU_SYNC, self.main, start, self.now - start, "stream wait", detail=self.correlation, flags=STREAM
        )
        if act.is_asleep and self.now - start > 2:
            self.builder.run(self.main, self.run_start, start + 1)
            self.builder.wake(self.main, self.now - 1, context=WakeContext.HARDIRQ)
            self.run_start = self.now - 1

    def copy(self, act: Act) -> None:
        """A pageable copy: earlier works first, then page faults, staging, the copy itself, and staging again."""
        start, dur = self.now, act.dur_ns
        for cause, length, _ in act.parts:
            self.work(cause, self.now, length)
            self.truth[cause] += length
            self.now += length
        self.builder.event(EventKind.FAULT, self.main, self.now, dur)
        self.truth[Cause.ANON_FAULT] += dur
        self.now += dur + 5
        self.work(Cause.H2D_PAGEABLE, self.now, dur, name="memcpy h2d pageable", size_bytes=LARGE_BYTES)
        self.truth[Cause.H2D_PAGEABLE] += dur
        self.now += dur + 5
        self.truth[Cause.STAGING_COPY] += 10
        self.call("cudaMemcpyAsync", start, self.now)

    def pinned_copy(self, act: Act) -> None:
        """A copy that the host only launches."""
        self.work(Cause.H2D_PINNED, self.now, 1, name="memcpy h2d pinned", size_bytes=LARGE_BYTES)
        self.call("cudaMemcpyAsync", self.now, self.now + act.dur_ns)
        self.truth[Cause.LAUNCH] += act.dur_ns
        self.now += act.dur_ns

    def late_launch(self, act: Act) -> None:
        """A wait for a kernel that another thread launches only now, after it ran for a while."""
        start, launched = self.now, self.now + act.dur_ns
        self.builder.run(self.helper, start, launched, cpu=1)
        self.work(Cause.GPU_KERNEL, launched, 100)
        self.builder.event(
            EventKind.CUDA_API, self.helper, launched - 1, 1, "cudaLaunchKernel", detail=self.correlation
        )
        self.now = launched + 100
        self.call("cudaDeviceSynchronize", start, self.now, own=True)
        self.truth.update({Cause.PYTHON: act.dur_ns - 1, Cause.LAUNCH: 1, Cause.GPU_KERNEL: 100})

    def work(self, cause: Cause, start: int, dur: int, name: str = "", **columns: int) -> None:
        self.correlation += 1
        kind, default = WORKS.get(cause, (EventKind.GPU_MEMCPY, ""))
        self.builder.event(kind, self.stream, start, dur, name or default, detail=self.correlation, **columns)

    def call(self, name: str, start: int, end: int, own: bool = False) -> None:
        """Record a call; copies have the id of their work, waits one of their own."""
        self.correlation += own or "Memcpy" not in name
        self.builder.event(EventKind.CUDA_API, self.main, start, end - start, name, detail=self.correlation)

    def finish(self) -> tuple[Trace, Window]:
        self.run(Act("run"))
        self.builder.run(self.main, self.run_start, self.now)
        return self.builder.build(), Window(WindowKind.TTFT, 0, T0_NS, self.now, self.main, "request")


def planned(plan: list[Act]) -> Planner:
    planner = Planner()
    for act in plan:
        getattr(planner, act.what)(act)
    return planner


def explained(planner: Planner) -> WindowReport:
    trace, window = planner.finish()
    return attribute(trace, [window])[0]


def by_cause(report: WindowReport) -> Counter[Cause]:
    return Counter({share.cause: share.ns for share in report.causes if share.ns})


@EXAMPLES
@given(plans)
def test_waits_for_the_gpu_are_what_its_stream_did(plan: list[Act]) -> None:
    planner = planned(plan)

    report = explained(planner)

    assert by_cause(report) == +planner.truth
    assert sum(report.phases.values()) == report.total_ns


@EXAMPLES
@given(plans, st.lists(st.tuples(st.integers(-MS, 20 * MS), durations), max_size=8), st.sampled_from([0, 1]))
def test_other_processes_on_any_device_do_not_matter(
    plan: list[Act], decoys: list[tuple[int, int]], device: int
) -> None:
    planner = planned(plan)
    stream = planner.add_stream(device, OTHER_PID, STREAM)
    for at, dur in decoys:
        planner.builder.event(EventKind.GPU_KERNEL, stream, T0_NS + at, dur, "decoy", detail=1)

    report = explained(planner)

    assert by_cause(report) == +planner.truth


@EXAMPLES
@given(st.lists(waits, min_size=1, max_size=6))
def test_a_stream_that_is_busy_past_the_wait_is_not_its_cause(plan: list[Act]) -> None:
    planner = planned(plan)
    stream = planner.add_stream(0, PID, STREAM + 1)
    planner.builder.event(EventKind.GPU_KERNEL, stream, T0_NS, 10_000 * MS, "decoy", detail=10**6)

    report = explained(planner)

    assert by_cause(report) == +planner.truth


@EXAMPLES
@given(st.lists(works, min_size=1, max_size=5), st.lists(st.integers(8, 15), min_size=5, max_size=5))
def test_a_wait_follows_work_from_stream_to_stream(chain: list[tuple[Cause, int, int]], numbers: list[int]) -> None:
    planner = Planner()
    start = planner.now
    for (cause, dur, gap), number in zip(chain, numbers, strict=False):
        planner.stream = planner.add_stream(0, PID, number)
        planner.truth[Cause.LAUNCH] += gap + 5_001
        planner.work(cause, planner.now + gap + 5_001, dur)
        planner.truth[cause] += dur
        planner.now += gap + 5_001 + dur
    planner.call("cudaDeviceSynchronize", start, planner.now)

    report = explained(planner)

    assert by_cause(report) == +planner.truth


records = st.tuples(
    st.sampled_from([EventKind.GPU_KERNEL, EventKind.GPU_MEMCPY, EventKind.GPU_SYNC, EventKind.CUDA_API]),
    st.integers(0, 3),  # which thread or stream
    st.integers(-100, 1100),
    st.integers(0, 600),
    st.integers(0, 5),  # correlation id
    st.sampled_from(
        ["memcpy h2d pageable", "cudaMemcpy", "cudaStreamSynchronize", "cudaLaunchKernel", "cuLibraryLoad"]
    ),
)
runs = st.lists(st.tuples(st.integers(0, 3), st.integers(-50, 1050), st.integers(1, 300)), max_size=12)


@settings(max_examples=300, deadline=None)
@given(st.lists(records, max_size=30), runs)
def test_any_input_is_partitioned(
    rows: list[tuple[EventKind, int, int, int, int, str]], on_cpu: list[tuple[int, int, int]]
) -> None:
    builder = TraceBuilder()
    threads = [builder.thread(PID + n, PID) for n in range(4)]
    streams = [
        builder.tracks.other(TrackKind.GPU_STREAM, n // 2, PID << GPU_PROCESS_SHIFT | n + 1, f"stream {n + 1}")
        for n in range(4)
    ]
    for kind, place, start, dur, call_id, name in rows:
        on_thread = kind in (EventKind.GPU_SYNC, EventKind.CUDA_API)
        track = (threads if on_thread else streams)[place]
        builder.event(kind, track, T0_NS + start, dur, name, detail=call_id, flags=call_id, size_bytes=LARGE_BYTES)
    for track in threads:
        now = -100
        for place, start, dur in on_cpu:
            if threads[place] == track and start > now:
                builder.run(track, T0_NS + start, T0_NS + start + dur)
                now = start + dur
    window = Window(WindowKind.TTFT, 0, T0_NS, T0_NS + 1000, threads[0], "request")

    report = attribute(builder.build(), [window])[0]

    assert sum(report.phases.values()) == 1000
    assert sum(share.ns for share in report.stages) == 1000
    assert report.segments is not None
    assert np.array_equal(report.segments.start_ns[1:], report.segments.end_ns[:-1])


def test_beside_a_gpu_the_forward_pass_of_the_host_is_launch_work() -> None:
    planner = Planner()
    planner.builder.event(EventKind.RANGE, planner.main, planner.now, MS, "prefill", stage=Stage.PREFILL)
    planner.now += MS

    report = explained(planner)

    # On its way to a stage, a thread is in it already.
    assert by_cause(report) == Counter({Cause.LAUNCH: 2 * MS, Cause.PYTHON: 1})


def test_the_way_to_a_module_load_is_the_library_s_own_preparation() -> None:
    planner = Planner()
    start = planner.now
    planner.builder.event(EventKind.RANGE, planner.main, start, 10 * MS, "prefill", stage=Stage.PREFILL)
    planner.work(Cause.GPU_KERNEL, start + MS, 1000)
    planner.builder.event(EventKind.CUDA_API, planner.main, start + 5 * MS, 2 * MS, "cuLibraryLoadData", detail=99)
    planner.now += 10 * MS

    causes = by_cause(explained(planner))

    assert causes[Cause.LIBRARY_INIT] == 4 * MS
    assert causes[Cause.MODULE_LOAD] == 2 * MS
    assert causes[Cause.LAUNCH] == 5 * MS


@pytest.mark.parametrize(
    ("call", "copy"), [("cudaStreamSynchronize", "memcpy d2h pinned"), ("cudaMemcpyAsync", "memcpy d2h pageable")]
)
def test_without_recorded_kernels_a_wait_is_for_kernels_up_to_its_copy(call: str, copy: str) -> None:
    builder = TraceBuilder()
    main = builder.thread(PID, PID)
    stream = builder.tracks.other(TrackKind.GPU_STREAM, 0, PID << GPU_PROCESS_SHIFT | STREAM, "stream 7")
    builder.event(EventKind.CUDA_API, main, 100, 500, call, detail=1)
    builder.event(EventKind.GPU_MEMCPY, stream, 500, 100, copy, size_bytes=4, detail=1)
    builder.run(main, 0, 1000)

    report = attribute(builder.build(), [Window(WindowKind.TTFT, 0, 0, 1000, main)])[0]

    assert by_cause(report) == Counter({Cause.GPU_KERNEL: 400, Cause.D2H: 100, Cause.PYTHON: 500})


def test_a_process_that_only_calls_the_api_uses_a_gpu_too() -> None:
    builder = TraceBuilder()
    main = builder.thread(PID, PID)
    builder.event(EventKind.RANGE, main, 0, 1000, "prefill", stage=Stage.PREFILL)
    builder.event(EventKind.CUDA_API, main, 600, 300, "cudaStreamSynchronize", detail=1)
    builder.run(main, 0, 1000)

    report = attribute(builder.build(), [Window(WindowKind.TTFT, 0, 0, 1000, main)])[0]

    assert by_cause(report) == Counter({Cause.LAUNCH: 700, Cause.GPU_KERNEL: 300})


def test_a_system_call_of_the_driver_has_the_cause_of_the_cuda_call_around_it() -> None:
    builder = TraceBuilder()
    main = builder.thread(PID, PID)
    builder.event(EventKind.RANGE, main, 0, 1000, "prefill", stage=Stage.PREFILL)
    builder.event(EventKind.CUDA_API, main, 100, 300, "cuMemHostAlloc", detail=1)
    builder.event(EventKind.SYSCALL, main, 150, 200, "ioctl")
    builder.event(EventKind.CUDA_API, main, 450, 100, "cupti buffer flush")
    builder.event(EventKind.SYSCALL, main, 460, 50, "ioctl")
    builder.event(EventKind.SYSCALL, main, 600, 100, "ioctl")
    builder.run(main, 0, 1000)

    report = attribute(builder.build(), [Window(WindowKind.TTFT, 0, 0, 1000, main)])[0]

    assert by_cause(report) == Counter({Cause.LAUNCH: 550, Cause.PIN_MEMORY: 300, Cause.OTHER_SYSCALL: 150})


@pytest.mark.parametrize(("index", "preparation_ns"), [(0, 5 * MS), (1, 0)])
def test_without_recorded_kernels_only_a_first_request_prepares_libraries(index: int, preparation_ns: int) -> None:
    builder = TraceBuilder()
    main = builder.thread(PID, PID)
    stream = builder.tracks.other(TrackKind.GPU_STREAM, 0, PID << GPU_PROCESS_SHIFT | STREAM, "stream 7")
    builder.event(EventKind.RANGE, main, 0, 10 * MS, "prefill", stage=Stage.PREFILL)
    builder.event(EventKind.GPU_MEMCPY, stream, 0, 100, "memcpy h2d pinned", size_bytes=4)
    builder.event(EventKind.CUDA_API, main, 5 * MS, MS, "cuLibraryLoadData", detail=1)
    builder.run(main, 0, 10 * MS)

    report = attribute(builder.build(), [Window(WindowKind.TTFT, index, 0, 10 * MS, main)])[0]

    assert by_cause(report)[Cause.LIBRARY_INIT] == preparation_ns


def test_without_scheduler_evidence_a_large_pageable_copy_blocks_its_process() -> None:
    builder = TraceBuilder()
    main = builder.thread(PID, PID)
    stream = builder.tracks.other(TrackKind.GPU_STREAM, 0, PID << GPU_PROCESS_SHIFT | STREAM, "stream 7")
    builder.event(EventKind.RANGE, main, 0, 1000, "from_pretrained", stage=Stage.WEIGHTS)
    builder.event(EventKind.GPU_MEMCPY, stream, 100, 300, "memcpy h2d pageable", size_bytes=LARGE_BYTES)
    builder.event(EventKind.GPU_KERNEL, stream, 500, 300, "gemm")

    report = attribute(builder.build(), [Window(WindowKind.LOAD, 0, 0, 1000, main)])[0]

    assert by_cause(report) == Counter({Cause.H2D_PAGEABLE: 300, Cause.NO_EVIDENCE: 700})


def test_what_recording_took_of_a_window_holds_the_launches_of_its_kernels() -> None:
    builder = TraceBuilder()
    main = builder.thread(PID, PID)
    stream = builder.tracks.other(TrackKind.GPU_STREAM, 0, PID << GPU_PROCESS_SHIFT | STREAM, "stream 7")
    for start_ns in (100, 200, 2 * MS):
        builder.event(EventKind.GPU_KERNEL, stream, start_ns, 50, "kernel")

    trace = builder.build()
    windows = attribute(trace, [Window(WindowKind.TTFT, 0, 0, MS, main)])

    costs = recording_cost(trace, windows)["windows"]

    assert costs == [{"name": "ttft", "index": 0, "ns": 4_000, "share": 0.004}]
