"""What is recommended of one run's findings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from slmtrace.model.report import CauseShare, Finding, Report
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.studies.advice import CURES, advise
from slmtrace.studies.recommendation import emit
from slmtrace.verdict.rules import RULES
from tests.support.builders import MS, make_report, make_segments, make_window


def report_with(finding_id: str, cause: Cause, state: dict[str, Any], gains_ms: tuple[int, ...] = (300,)) -> Report:
    """Make a load with a finding of this kind, and a request with another for each further gain."""
    windows = []
    for index, gain_ms in enumerate(gains_ms):
        kind = WindowKind.TTFT if index else WindowKind.LOAD
        window = make_window(kind, index, make_segments(index * 10**9, [(900 * MS, Stage.WEIGHTS, cause, 0, -1)]))
        found = Finding(finding_id, cause.phase, cause, gain_ms * MS, "it took long", "do this", gain_ms * MS, "medium")
        windows.append(replace(window, findings=[found]))
    return make_report(windows, state=state)


@pytest.mark.parametrize(
    ("finding_id", "cause", "state", "line"),
    [
        ("thp_compaction", Cause.COMPACTION, {}, "w /sys/kernel/mm/transparent_hugepage/defrag - - - - defer+madvise"),
        ("huge_pages_off", Cause.ANON_FAULT, {}, "w /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise"),
        ("arena_contention", Cause.ARENA_WAIT, {}, "# no sysctl: set LD_PRELOAD=libjemalloc.so.2 for the service"),
        (
            "small_readahead",
            Cause.READAHEAD_WAIT,
            {"storage": {"before": [{"device": {"name": "nvme0n1p2", "read_ahead_kb": 16}}, {"device": None}]}},
            "w /sys/block/nvme0n1/queue/read_ahead_kb - - - - 4096",
        ),
        (
            "cold_weights",
            Cause.BLOCK_IO_WAIT,
            {"page_cache": {"before": {"files": [{"name": "model.safetensors"}]}}},
            "# no sysctl: cat YOUR-MODEL/*.safetensors > /dev/null &",
        ),
        (
            "too_many_threads",
            Cause.RUN_QUEUE,
            {"cpu": {"before": {"n_usable": 6}}},
            "# no sysctl: set OMP_NUM_THREADS=6 for the service",
        ),
    ],
)
def test_a_finding_is_cured_by_a_setting(finding_id: str, cause: Cause, state: dict[str, Any], line: str) -> None:
    found = advise(report_with(finding_id, cause, state))

    assert line in emit(found, "sysctl").splitlines()
    assert found[0].text.startswith(f"{finding_id}: it took long; saves at most 300 ms of 900 ms (load)")


def test_of_findings_of_one_kind_the_costliest_is_told() -> None:
    (found,) = advise(report_with("thp_compaction", Cause.COMPACTION, {}, (300, 500, 400)))

    assert "at most 500 ms of 900 ms (ttft 1)" in found.reason


def test_a_pinned_pool_has_the_size_of_the_largest_copy_and_says_that_it_was_computed() -> None:
    report = report_with("pageable_copies", Cause.H2D_PAGEABLE, {})
    share = CauseShare(Cause.H2D_PAGEABLE, 900 * MS, 3, 1 << 30, {"largest_bytes": (233 << 20) + 1})

    (found,) = advise(replace(report, windows=[replace(report.windows[0], causes=[share])]))

    assert found.confidence == "computed"
    assert "the size is computed" in found.reason
    assert found.text.endswith("PYTORCH_CUDA_ALLOC_CONF=pinned_reserve_segment_size_mb:234")


@pytest.mark.parametrize(("n_before", "is_advised"), [(0, True), (12, False)])
def test_compile_caches_are_kept_where_one_was_empty(n_before: int, is_advised: bool) -> None:
    caches = {"before": {"triton": {"n_files": n_before}}, "after": {"triton": {"n_files": 40}}}

    found = advise(report_with("compiled_anew", Cause.TORCH_COMPILE, {"compile_caches": caches}))

    assert bool(found) == is_advised
    lines = emit(found, "k8s").splitlines()
    assert ("- {name: inference-cache, mountPath: /var/cache/inference}" in lines) == is_advised
    assert ("CacheDirectory=inference" in emit(found, "systemd").splitlines()) == is_advised


def test_without_what_a_cure_needs_to_know_nothing_is_advised() -> None:
    kinds = {
        "small_readahead": Cause.READAHEAD_WAIT,
        "cold_weights": Cause.BLOCK_IO_WAIT,
        "pinning": Cause.PIN_MEMORY,
        "too_many_threads": Cause.RUN_QUEUE,
        "gil_contention": Cause.GIL_WAIT,
    }

    assert [one for name, cause in kinds.items() for one in advise(report_with(name, cause, {}))] == []


def test_names_from_elsewhere_do_not_become_commands() -> None:
    devices = [{"device": {"name": "sda; reboot", "read_ahead_kb": 0}}]
    files = [{"name": "model.$(reboot)"}]
    reports = [
        report_with("small_readahead", Cause.READAHEAD_WAIT, {"storage": {"before": devices}}),
        report_with("cold_weights", Cause.BLOCK_IO_WAIT, {"page_cache": {"before": {"files": files}}}),
    ]

    assert [one for report in reports for one in advise(report)] == []


def test_what_is_cured_is_what_rules_find() -> None:
    assert {*CURES} <= {rule.id for rule in RULES}
