"""The CUDA recorder around a fake CUPTI, from records to events."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from slmtrace.analysis import load
from slmtrace.capture.cupti import ActivityKind
from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import ClockId
from slmtrace.decode import cuda as decoder
from slmtrace.decode.base import Context, Fragment
from slmtrace.model.events import EventKind
from slmtrace.model.quality import Issue
from slmtrace.model.tracks import TrackKind
from slmtrace.probes.base import RecordOptions
from slmtrace.probes.cuda import CudaProbe, build_shim
from tests.support.cuda import run_target
from tests.support.logs import make_context, new_capture, only_log

_KERNELS = """
for i in range(3):
    emit(10, start=1000 + i * 100, end=1050 + i * 100, device=0, context=1, stream=7, correlation=5 + i,
         name=text("_ZN2at6native29vectorized_elementwise_kernelILi4EfEEvT_"))
"""

_RARE_CALLS = {1 << 16 | 1, 1 << 16 | 2, 1 << 16 | 4, 1 << 24 | 1}
_KERNEL_KINDS = (ActivityKind.CONCURRENT_KERNEL, ActivityKind.MEMCPY, ActivityKind.MEMCPY2, ActivityKind.MEMSET)


def recorded(capture: Capture, body: str, **environ: str) -> tuple[Fragment, Context]:
    done = run_target(capture.raw, body, **environ)
    assert done.returncode == 0, done.stderr
    context = make_context()
    return decoder.decode(only_log(capture), context), context


def names(fragment: Fragment, context: Context, kind: EventKind) -> list[str]:
    events = fragment.events
    return [context.strings[int(row)] for row in events.name[events.kind == kind]]


def stopped(capture: Capture) -> CudaProbe:
    probe = CudaProbe()
    probe.start(capture, RecordOptions())
    return probe


def test_kernels_arrive_with_their_demangled_short_names(tmp_path: Path) -> None:
    fragment, context = recorded(new_capture(tmp_path), _KERNELS)

    assert names(fragment, context, EventKind.GPU_KERNEL) == ["vectorized_elementwise_kernel"] * 3
    assert fragment.events.start_ns.tolist() == [1000, 1100, 1200]
    assert fragment.events.detail.tolist() == [5, 6, 7]
    assert [context.tracks[row].name for row in context.tracks.rows(TrackKind.GPU_STREAM)] == ["stream 7"]


def test_copies_say_their_direction_their_bytes_and_whether_memory_was_pinned(tmp_path: Path) -> None:
    body = """
emit(1, start=10, end=20, bytes=4096, copy_kind=1, source=1, target=3)
emit(1, start=30, end=40, bytes=8192, copy_kind=1, source=2, target=3)
emit(1, start=50, end=60, bytes=16, copy_kind=2, source=3, target=1)
emit(2, start=70, end=80, bytes=64)
"""

    fragment, context = recorded(new_capture(tmp_path), body)

    assert names(fragment, context, EventKind.GPU_MEMCPY) == [
        "memcpy h2d pageable",
        "memcpy h2d pinned",
        "memcpy d2h pageable",
    ]
    assert fragment.events.size_bytes.tolist() == [4096, 8192, 16, 64]
    assert fragment.events.flags.tolist() == [0, 1, 0, 0]


def test_a_wait_is_on_the_thread_of_its_call_and_inside_it(tmp_path: Path) -> None:
    body = """
tid = threading.get_native_id()
emit(4, cbid=4, start=100, end=200, tid=tid, correlation=9)
emit(38, type=3, start=90, end=190, correlation=9, stream=7)
emit(38, type=2, start=300, end=310, correlation=10, stream=7)
"""

    fragment, context = recorded(new_capture(tmp_path), body)

    waits = fragment.events.take(fragment.events.kind == EventKind.GPU_SYNC)
    calls = fragment.events.take(fragment.events.kind == EventKind.CUDA_API)
    assert (waits.start_ns.tolist(), waits.end_ns.tolist()) == ([100], [190])
    assert waits.track.tolist() == calls.track.tolist()
    assert names(fragment, context, EventKind.CUDA_API) == ["cuStreamSynchronize"]
    assert names(fragment, context, EventKind.GPU_SYNC) == ["stream wait"]


def test_lazy_loading_is_an_event_of_the_thread_that_met_it(tmp_path: Path) -> None:
    body = "emit(17, overhead=5 << 16, object=2, tid=threading.get_native_id(), start=10, end=90)"

    fragment, context = recorded(new_capture(tmp_path), body)

    assert names(fragment, context, EventKind.CUDA_API) == ["lazy function loading"]
    assert context.tracks[int(fragment.events.track[0])].kind is TrackKind.THREAD


def test_the_program_s_own_nvtx_ranges_are_ranges_and_ours_are_left_out(tmp_path: Path) -> None:
    body = """
tid = threading.get_native_id()
for marker, domain in ((1, text("mine")), (2, text("slmtrace"))):
    emit(12, flags=2, start=100 * marker, id=marker, object=2, tid=tid, name=text("step"), domain=domain)
    emit(12, flags=4, start=100 * marker + 50, id=marker, object=2, tid=tid, domain=domain)
"""

    fragment, context = recorded(new_capture(tmp_path), body)

    assert names(fragment, context, EventKind.RANGE) == ["step"]
    assert (fragment.events.start_ns.tolist(), fragment.events.end_ns.tolist()) == ([100], [150])


def test_times_are_mapped_to_the_monotonic_clock(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    body = """
before = time.monotonic_ns()
now = clock()
emit(10, start=now, end=now + 1000, name=text("kernel"))
flush()
time.sleep(0.02)
Path(os.environ["OUT"]).write_text(f"{before} {time.monotonic_ns()}")
"""

    done = run_target(capture.raw, body, OUT=str(tmp_path / "times"))
    trace = load(capture)

    assert done.returncode == 0, done.stderr
    before, after = map(int, (tmp_path / "times").read_text().split())
    residual = trace.clock_residual_ns[ClockId.CUPTI.name.lower()]
    assert residual < 1_000_000
    assert before - residual <= int(trace.events.start_ns[0]) <= after


def test_a_killed_process_leaves_what_cupti_had_written(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)

    run_target(capture.raw, _KERNELS + "os.kill(os.getpid(), signal.SIGKILL)")
    context = make_context()
    fragment = decoder.decode(only_log(capture), context)

    assert int((fragment.events.kind == EventKind.GPU_KERNEL).sum()) == 3
    # Their names are looked up when a buffer is complete, which this one never was.
    assert context.quality.counts[Issue.MISSING_STRING] == 3


def test_what_was_flushed_before_a_kill_has_its_names(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)

    run_target(capture.raw, _KERNELS + "flush()\nos.kill(os.getpid(), signal.SIGKILL)")
    context = make_context()
    fragment = decoder.decode(only_log(capture), context)

    assert names(fragment, context, EventKind.GPU_KERNEL) == ["vectorized_elementwise_kernel"] * 3
    assert context.quality.counts[Issue.MISSING_STRING] == 0


def test_records_that_a_killed_process_left_without_times_are_lost_and_counted(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    probe = stopped(capture)
    body = """
for unfinished in (0x80, 0, 0x80):
    data = bytearray(record(10, start=1000, end=1100))
    data[3] |= unfinished
    fake.fake_record(bytes(data), ctypes.c_size_t(len(data)))
os.kill(os.getpid(), signal.SIGKILL)
"""

    run_target(capture.raw, body)
    result = probe.stop()
    context = make_context()
    fragment = decoder.decode(only_log(capture), context)

    assert int((fragment.events.kind == EventKind.GPU_KERNEL).sum()) == 1
    assert result.lost == {"killed_before_flush": 2}
    assert [(loss.cause, loss.count) for loss in fragment.losses] == [("killed_before_flush", 2)]
    assert context.quality.counts[Issue.UNKNOWN_KIND] == 0


def test_a_flush_that_never_returns_holds_up_neither_the_program_nor_its_end(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    body = "shim.slmtrace_cuda_flush()\nshim.slmtrace_cuda_flush()\nprint('went on')"

    done = run_target(capture.raw, _KERNELS + body, FAKE_CUPTI_HANGS="yes")

    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_the_books_balance_and_dropped_records_are_counted(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    probe = stopped(capture)

    run_target(capture.raw, _KERNELS + "fake.fake_drop(ctypes.c_size_t(11))")
    result = probe.stop()
    fragment = decoder.decode(only_log(capture), make_context())

    assert result.status == "partial"
    assert result.lost == {"cupti_dropped": 11}
    assert result.written == fragment.decoded == result.seen - 11
    assert fragment.losses[0].count == 11


def test_the_unused_end_of_a_log_is_cut(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    probe = stopped(capture)

    run_target(capture.raw, _KERNELS)
    probe.stop()

    log = only_log(capture).path
    assert log.stat().st_blocks * 512 < 1 << 20


def test_many_records_fill_many_buffers_and_none_is_missing(tmp_path: Path) -> None:
    body = """
name = text("kernel")
for i in range(30000):
    emit(10, start=1000 + i, end=1001 + i, correlation=i + 1, name=name)
"""

    fragment, _ = recorded(new_capture(tmp_path), body)

    assert np.array_equal(np.sort(fragment.events.detail), np.arange(1, 30001))


def test_another_holder_of_cupti_is_named_and_nothing_is_recorded(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    probe = stopped(capture)
    body = "assert fake.fake_enabled((ctypes.c_uint32 * 256)()) == 0"

    done = run_target(capture.raw, body, FAKE_CUPTI_HOLDER="CUPTI for Kineto")
    result = probe.stop()

    assert done.returncode == 0, done.stderr
    assert result.status == "partial"
    assert result.reason == "CUPTI is in use by another tool: CUPTI for Kineto"


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        ("calls", _RARE_CALLS),
        ("light", {*_RARE_CALLS, *map(int, _KERNEL_KINDS), int(ActivityKind.GRAPH_TRACE)}),
        (
            "deep",
            set(map(int, (*_KERNEL_KINDS, ActivityKind.SYNCHRONIZATION, ActivityKind.DRIVER, ActivityKind.RUNTIME))),
        ),
    ],
)
def test_a_tier_asks_for_what_it_can_afford(tmp_path: Path, tier: str, expected: set[int]) -> None:
    body = """
out = (ctypes.c_uint32 * 256)()
print(list(out[: fake.fake_enabled(out)]))
"""

    done = run_target(new_capture(tmp_path).raw, body, tier=tier)

    enabled = set(map(int, done.stdout.strip("[]\n").split(",")))
    assert enabled - {12, 17, 52} == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (RecordOptions(), "light"),
        (RecordOptions(has_gpu_kernels=False), "calls"),
        (RecordOptions(tier="deep", has_gpu_kernels=False), "deep"),
    ],
)
def test_the_light_tier_does_without_kernels_where_asked(tmp_path: Path, options: RecordOptions, expected: str) -> None:
    probe = CudaProbe()
    probe.start(new_capture(tmp_path), options)

    assert probe.environ({})["SLMTRACE_CUDA"] == expected


def test_a_process_without_libcupti_says_so(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    probe = stopped(capture)
    script = f"import ctypes; ctypes.CDLL({str(build_shim())!r}).InitializeInjection()"
    # A library without CUPTI's functions, in front of any that this machine has.
    (tmp_path / "libcupti.so.13").symlink_to(build_shim())
    environ = {"SLMTRACE_CUDA": "light", "SLMTRACE_CUDA_RAW": str(capture.raw), "LD_LIBRARY_PATH": str(tmp_path)}

    subprocess.run([sys.executable, "-c", script], env={**os.environ, **environ}, check=True, timeout=60)

    assert probe.stop().reason == "the process has no libcupti.so.13"
