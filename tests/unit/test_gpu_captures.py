"""Captures of a real GPU: what was counted there comes out here, and every window adds up."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from slmtrace.analysis import build_report, load
from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import MARK_REQUEST_END, MARK_REQUEST_START
from slmtrace.model.events import EventKind
from slmtrace.model.report import Report, WindowReport
from slmtrace.model.taxonomy import Cause, Phase
from slmtrace.model.trace import Trace
from slmtrace.model.windows import marks
from slmtrace.output.json_ import check_conservation
from slmtrace.output.perfetto import write_perfetto

FIXTURES = Path(__file__).parents[1] / "fixtures"
PUBLISHED = Path(__file__).parents[2] / "traces" / "gpu"
MS = 1_000_000
Analysed = tuple[Trace, Report]


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    return analysed("hf-light", tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Analysed:
    return analysed("hf-deep", tmp_path_factory.mktemp("deep"))


def analysed(name: str, place: Path, archives: Path = FIXTURES) -> Analysed:
    shutil.unpack_archive(archives / f"{name}.tar.xz", place)
    trace = load(Capture.open(place / name))
    return trace, build_report(trace)


def test_a_slice_takes_at_most_50_bytes_and_15_deflated(deep: Analysed, tmp_path: Path) -> None:
    written = write_perfetto(*deep, tmp_path / "trace.pftrace")

    deflated = zlib.compress((tmp_path / "trace.pftrace").read_bytes())
    assert written.size_bytes <= 50 * written.n_slices
    assert len(deflated) <= 15 * written.n_slices


def ns_by_cause(window: WindowReport) -> Mapping[Cause, int]:
    return {share.cause: share.ns for share in window.causes}


def names(window: WindowReport, cause: Cause, key: str) -> list[str]:
    share = next(share for share in window.causes if share.cause is cause)
    return [row["name"] for row in share.detail[key]]


def rows_between(trace: Trace, kind: EventKind, start_ns: int, end_ns: int) -> np.ndarray:
    events = trace.events
    return np.flatnonzero((events.kind == kind) & (events.start_ns >= start_ns) & (events.start_ns < end_ns))


def test_a_request_has_the_kernels_copies_and_memsets_that_torch_profiler_counts(light: Analysed) -> None:
    trace, _ = light
    start, end = marks(trace, MARK_REQUEST_START)[0].ts_ns, marks(trace, MARK_REQUEST_END)[0].ts_ns

    kinds = (EventKind.GPU_KERNEL, EventKind.GPU_MEMCPY, EventKind.GPU_MEMSET)
    rows = [rows_between(trace, kind, start, end) for kind in kinds]

    assert [len(each) for each in rows] == [4833, 60, 38]
    kernel_ns = int((trace.events.end_ns - trace.events.start_ns)[rows[0]].sum())
    assert kernel_ns == pytest.approx(13.824 * MS, rel=0.02)


def test_every_window_is_partitioned_and_the_ledger_balances(light: Analysed, deep: Analysed) -> None:
    for trace, report in (light, deep):
        assert check_conservation(report.to_json()) == []
        assert [line.decoded for line in trace.ledger] == [line.written for line in trace.ledger]
        assert report.quality == []
        assert trace.clock_residual_ns["cupti"] < 20_000


def test_the_first_token_s_time_is_attributed_without_ebpf(light: Analysed, deep: Analysed) -> None:
    shares = [
        window.phases[Phase.UNATTRIBUTED] / window.total_ns
        for _, report in (light, deep)
        for window in report.windows[1:]
    ]

    assert len(shares) == 3
    assert max(shares) < 0.08


def test_the_weights_copies_are_dma_with_their_bytes_and_speed(light: Analysed) -> None:
    trace, report = light
    window = report.windows[0]
    copies = rows_between(trace, EventKind.GPU_MEMCPY, window.start_ns, window.end_ns)
    moved = int(trace.events.size_bytes[copies].sum())

    share = next(share for share in window.causes if share.cause is Cause.H2D_PAGEABLE)

    assert 3.0e9 < moved < 3.2e9
    assert share.size_bytes == pytest.approx(moved, rel=0.001)
    assert 7.0e9 < share.detail["bytes_per_second"] < 9.0e9
    assert share.detail["largest_bytes"] == trace.events.size_bytes[copies].max()


def test_warm_up_explains_the_first_token_s_excess_over_the_second(light: Analysed) -> None:
    _, report = light
    first, later = report.windows[1], report.windows[2]

    excess_ns = first.total_ns - later.total_ns
    warm_up_ns = first.phases[Phase.KERNEL_WARMUP] - later.phases[Phase.KERNEL_WARMUP]

    assert excess_ns > 500 * MS
    assert warm_up_ns / excess_ns == pytest.approx(1, abs=0.06)
    assert later.phases[Phase.KERNEL_WARMUP] < MS


def test_first_uses_name_the_kernels_that_they_were_for(light: Analysed) -> None:
    first = light[1].windows[1]

    assert "cuLibraryLoadData" in names(first, Cause.MODULE_LOAD, "functions")
    assert any(name.startswith("nvjet") for name in names(first, Cause.LIBRARY_INIT, "kernels"))
    assert any(name.startswith("cudnn") for name in names(first, Cause.LIBRARY_INIT, "kernels"))


def test_a_launch_bound_forward_pass_is_launch_work_and_not_kernels(light: Analysed) -> None:
    later = light[1].windows[2]

    causes = ns_by_cause(later)

    assert causes[Cause.LAUNCH] / later.total_ns > 0.9
    assert Cause.CPU_KERNEL not in causes
    assert causes.get(Cause.GPU_KERNEL, 0) < MS
    # The kernels ran beside it: 1,213 of them, as long as torch.profiler says.
    assert 4 * MS < later.overlapped[Phase.COMPUTE] < 5 * MS


def test_the_deep_tier_sees_the_waits_and_what_they_waited_for(deep: Analysed) -> None:
    trace, report = deep
    window = report.windows[1]
    waits = rows_between(trace, EventKind.GPU_SYNC, window.start_ns, window.end_ns)

    causes = ns_by_cause(window)

    assert len(waits) == 10
    assert np.all(trace.events.flags[waits] == 7)
    assert 0 < causes.get(Cause.GPU_KERNEL, 0) + causes[Cause.D2H] < MS
    assert "cudaLaunchKernel" in names(window, Cause.LAUNCH, "functions")


def test_the_verdict_names_first_uses_in_the_first_request_and_nothing_later(light: Analysed) -> None:
    requests = [window for window in light[1].windows if window.label != "load"]

    assert [[finding.id for finding in window.findings] for window in requests[:2]] == [["first_use_in_request"], []]
    assert "cuLibraryLoadData" in requests[0].findings[0].evidence


@pytest.mark.parametrize("name", ["hf-cold", "hf-warm", "vllm-cold", "vllm-warm", "copies"])
def test_published_captures_are_explained_and_add_up(name: str, tmp_path: Path) -> None:
    _, report = analysed(name, tmp_path, PUBLISHED)

    assert check_conservation(report.to_json()) == []
    for window in report.windows:
        assert window.phases.get(Phase.UNATTRIBUTED, 0) <= 0.001 * window.total_ns


def test_vllm_with_full_compile_caches_is_not_told_to_keep_them(tmp_path: Path) -> None:
    _, report = analysed("vllm-warm", tmp_path, PUBLISHED)

    assert "compiled_anew" not in [finding.id for finding in report.windows[0].findings]


def test_vllm_with_asynchronous_scheduling_runs_its_next_step_before_it_hands_the_token_over(tmp_path: Path) -> None:
    _, report = analysed("vllm-warm", tmp_path, PUBLISHED)
    first, later = report.windows[1:]

    assert [finding.id for finding in first.findings] == ["first_use_in_request", "next_step_first"]
    assert [finding.id for finding in later.findings] == ["next_step_first"]
    assert names(later, Cause.ENGINE_SCHEDULE, "ranges")[0] == "next step"


def test_vllm_without_compile_caches_is_told_what_it_compiled(tmp_path: Path) -> None:
    _, report = analysed("vllm-cold", tmp_path, PUBLISHED)
    load_window = report.windows[0]

    causes = ns_by_cause(load_window)

    assert load_window.findings[0].id == "compiled_anew"
    assert causes[Cause.JIT_COMPILE] > 20_000 * MS
    assert causes[Cause.TORCH_COMPILE] > 15_000 * MS
    assert "_topk_topp_kernel" in names(load_window, Cause.JIT_COMPILE, "kernels")
