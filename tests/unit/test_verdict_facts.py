"""What is gathered from a trace beside the windows' sums."""

from __future__ import annotations

import numpy as np
import pytest

from slmtrace.capture.layout import MARK_REQUEST_END, MARK_REQUEST_START, FoldClass
from slmtrace.model.events import NO_EVENT, EventKind
from slmtrace.model.report import WindowReport
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.model.trace import CounterSeries
from slmtrace.model.tracks import TrackKind
from slmtrace.verdict.facts import gather
from tests.support.builders import MS, T0_NS, Piece, TraceBuilder, make_segments, make_window

SITE = "/venv/lib/python3.11/site-packages/"


def window_of(*pieces: Piece) -> WindowReport:
    return make_window(WindowKind.LOAD, 0, make_segments(T0_NS, list(pieces)))


def test_a_counter_grows_from_its_last_reading_before_the_window_to_its_first_after_it() -> None:
    builder = TraceBuilder()
    builder.thread(1, 1)
    ts_ns = np.array([-50, -10, 30, 110, 210], np.int64) * MS + T0_NS
    builder.counters.append(CounterSeries("cgroup throttled", "us", ts_ns, np.array([0, 5, 20, 70, 500], np.int64)))

    facts = gather(builder.build(), [window_of((100 * MS, Stage.WEIGHTS, Cause.PYTHON, 0, NO_EVENT))])

    assert facts[0].grown == {"cgroup throttled": 65}


def test_reads_that_overlap_keep_the_device_busy_once() -> None:
    builder = TraceBuilder()
    disk = builder.tracks.other(TrackKind.BLOCK_DEVICE, 0, 8)
    for start_ms, dur_ms, name in ((0, 20, "read"), (10, 20, "read"), (60, 10, "read"), (30, 60, "write")):
        builder.event(EventKind.BLOCK_IO, disk, T0_NS + start_ms * MS, dur_ms * MS, name, size_bytes=1 << 20)

    device = gather(builder.build(), [window_of((100 * MS, Stage.WEIGHTS, Cause.MAJOR_FAULT, 0, NO_EVENT))])[0].device

    assert (device.n_reads, device.size_bytes, device.written_bytes) == (3, 3 << 20, 1 << 20)
    assert (device.busy_ns, device.latency_ns) == (40 * MS, 20 * MS)


def test_a_wait_with_no_read_in_flight_is_told_from_one_for_the_device() -> None:
    builder = TraceBuilder()
    disk = builder.tracks.other(TrackKind.BLOCK_DEVICE, 0, 8)
    for start_ms, dur_ms in ((15, 20), (20, 20), (80, 40)):
        builder.event(EventKind.BLOCK_IO, disk, T0_NS + start_ms * MS, dur_ms * MS, "read", size_bytes=1 << 20)
    pieces: list[Piece] = [
        (10 * MS, Stage.WEIGHTS, Cause.PYTHON, 0, NO_EVENT),
        (50 * MS, Stage.WEIGHTS, Cause.MAJOR_FAULT, 0, NO_EVENT),  # 10 to 60: something is in flight from 15 to 40
        (30 * MS, Stage.WEIGHTS, Cause.PYTHON, 0, NO_EVENT),
        (10 * MS, Stage.WEIGHTS, Cause.BLOCK_IO_WAIT, 0, NO_EVENT),  # 90 to 100: in flight throughout
    ]

    device = gather(builder.build(), [window_of(*pieces)])[0].device

    assert device.idle_wait_ns == 25 * MS


def test_the_way_to_the_device_and_back_is_no_reading_held_back() -> None:
    builder = TraceBuilder()
    disk = builder.tracks.other(TrackKind.BLOCK_DEVICE, 0, 8)
    for start_ms in range(100):
        builder.event(EventKind.BLOCK_IO, disk, T0_NS + start_ms * MS + MS // 4, MS // 2, "read", size_bytes=4096)
    pieces: list[Piece] = [(MS, Stage.WEIGHTS, Cause.MAJOR_FAULT, row, NO_EVENT) for row in range(100)]

    device = gather(builder.build(), [window_of(*pieces)])[0].device

    assert device.idle_wait_ns == 0


def test_a_request_says_how_long_nobody_asked_before_it() -> None:
    builder = TraceBuilder()
    thread = builder.thread(1, 1)
    for name, at_ms, request in (
        (MARK_REQUEST_START, -900, "0"),
        (MARK_REQUEST_END, -700, "0"),
        (MARK_REQUEST_START, 0, "1"),
        (MARK_REQUEST_START, 150, "2"),
        (MARK_REQUEST_END, 180, "1"),
    ):
        builder.event(EventKind.MARK, thread, T0_NS + at_ms * MS, 0, name, request=request)
    windows = [
        make_window(
            WindowKind.TTFT, index, make_segments(start_ns, [(10 * MS, Stage.PREFILL, Cause.PYTHON, thread, 0)])
        )
        for index, start_ns in enumerate((T0_NS - 900 * MS, T0_NS, T0_NS + 150 * MS))
    ]

    facts = gather(builder.build(), windows)

    # The first has nobody before it, and the third comes while the second is under way.
    assert [one.idle_ns for one in facts] == [0, 700 * MS, 0]


def _crowd(n_threads: int, n_cpus: int, busy_us: int | None = None) -> int:
    """Return the wait that threads of the tree caused, where so many take turns on so many CPUs.

    `busy_us` is what the kernel says that the CPUs were busy meanwhile, for these and for others.
    """
    builder = TraceBuilder()
    waiting = builder.thread(1, 1)
    for cpu in range(n_cpus):
        builder.run(waiting, T0_NS - (cpu + 2) * MS, T0_NS - (cpu + 1) * MS, cpu=cpu)
    for number in range(n_threads - 1):
        other = builder.thread(2 + number, 1)
        builder.run(other, T0_NS, T0_NS + 40 * MS, cpu=number % n_cpus)
    builder.run(waiting, T0_NS + 40 * MS, T0_NS + 50 * MS, cpu=0)
    if busy_us is not None:
        readings = np.array([0, 50], np.int64) * MS + T0_NS, np.array([7, 7 + busy_us], np.int64)
        builder.counters.append(CounterSeries("cpu busy", "us", *readings))
    trace = builder.build()
    pieces: list[Piece] = [
        (40 * MS, Stage.PREFILL, Cause.RUN_QUEUE, waiting, NO_EVENT),
        (10 * MS, Stage.PREFILL, Cause.CPU_KERNEL, waiting, NO_EVENT),
    ]
    return gather(trace, [window_of(*pieces)])[0].own_queue_ns


def test_more_threads_than_cpus_hold_each_other_up() -> None:
    assert _crowd(n_threads=3, n_cpus=2) == 40 * MS


def test_as_many_threads_as_cpus_are_held_up_by_others() -> None:
    assert _crowd(n_threads=2, n_cpus=2) == 0


@pytest.mark.parametrize(
    ("others_ms", "own_ms"),
    [
        (40, 0),  # they had the other CPU all the time
        (10, 30),
        (0, 40),  # nobody else ran: the waiting thread was put on the wrong CPU
    ],
)
def test_what_others_did_not_run_for_they_did_not_hold_up(others_ms: int, own_ms: int) -> None:
    busy_ms = 40 + 10 + others_ms

    assert _crowd(n_threads=2, n_cpus=2, busy_us=1000 * busy_ms) == own_ms * MS


def test_the_fastest_tenth_of_faults_is_what_a_fault_costs() -> None:
    builder = TraceBuilder()
    thread = builder.thread(1, 1)
    for number, cost_ns in enumerate([1_000] * 3 + [9_000] * 17):
        builder.event(
            EventKind.FOLD, thread, T0_NS + number * MS, MS, flags=FoldClass.ANON_FAULT, count=10, work_ns=10 * cost_ns
        )

    facts = gather(builder.build(), [window_of((100 * MS, Stage.WEIGHTS, Cause.ANON_FAULT, thread, 0))])

    assert facts[0].fault_ns == 1_000


def test_the_tokens_of_a_window_are_those_of_its_own_tokenizer_calls() -> None:
    builder = TraceBuilder()
    thread = builder.thread(1, 1)
    for start_ms, n_tokens in ((-20, 7), (10, 128)):
        builder.event(
            EventKind.RANGE,
            thread,
            T0_NS + start_ms * MS,
            MS,
            "tokenizer",
            stage=Stage.TOKENIZE,
            size_bytes=n_tokens,
        )

    facts = gather(builder.build(), [window_of((100 * MS, Stage.TOKENIZE, Cause.TOKENIZE, thread, NO_EVENT))])

    assert facts[0].n_tokens == 128


def test_compiling_counts_as_far_as_its_imports_are_on_the_path() -> None:
    builder = TraceBuilder()
    thread = builder.thread(1, 1)
    imports = {"torch.nn": (40, 30), "six": (60, 0), "idna": (10, 8)}  # length, and what of it compiled its source
    for name, (length_ms, compiled_ms) in imports.items():
        builder.event(EventKind.IMPORT, thread, T0_NS, length_ms * MS, name, detail=compiled_ms * MS)
    trace = builder.build()
    rows = {trace.strings[int(name)]: row for row, name in enumerate(trace.events.name)}
    pieces: list[Piece] = [
        (25 * MS, Stage.IMPORT, Cause.IMPORT, thread, rows["torch.nn"]),
        (60 * MS, Stage.IMPORT, Cause.IMPORT, thread, rows["six"]),
        (9 * MS, Stage.IMPORT, Cause.IMPORT, thread, rows["idna"]),
        (60 * MS, Stage.COMPILE, Cause.TORCH_COMPILE, thread, NO_EVENT),
    ]

    facts = gather(trace, [window_of(*pieces)])[0]

    assert (facts.compiled_ns, facts.n_compiled, facts.n_misfits) == (33 * MS, 2, 0)


def test_a_module_that_was_compiled_although_it_has_a_compiled_file_is_a_misfit() -> None:
    builder = TraceBuilder()
    thread = builder.thread(1, 1)
    for name, start_ms, file in (("six", 10, "six"), ("idna", 50, "certifi")):
        builder.event(EventKind.IMPORT, thread, T0_NS + start_ms * MS, 20 * MS, name, detail=5 * MS)
        read_ns, path = T0_NS + start_ms * MS + MS, f"{SITE}__pycache__/{file}.cpython-311.pyc"
        builder.event(EventKind.SYSCALL, thread, read_ns, MS, "read", file=path)
    trace = builder.build()
    rows = {trace.strings[int(name)]: row for row, name in enumerate(trace.events.name)}
    pieces: list[Piece] = [
        (20 * MS, Stage.IMPORT, Cause.IMPORT, thread, rows["six"]),
        (20 * MS, Stage.IMPORT, Cause.IMPORT, thread, rows["idna"]),
    ]

    facts = gather(trace, [window_of(*pieces)])[0]

    assert (facts.compiled_ns, facts.n_compiled, facts.n_misfits) == (10 * MS, 2, 1)
