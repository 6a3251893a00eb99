"""The rules of a certificate, its files, and the fleet's table made of it, over facts made by hand."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from slmtrace.builtin import Answered
from slmtrace.engines.models import Model
from slmtrace.errors import CaptureError
from slmtrace.model.report import Finding
from slmtrace.model.taxonomy import Cause, Phase, Stage, WindowKind
from slmtrace.studies.certificate import (
    SCHEMA,
    Certificate,
    describe,
    read_certificate,
    read_certificate_schema,
    recommend,
    render_certificate_json,
)
from slmtrace.studies.certificate_output import render_certificate_html, render_certificate_text
from slmtrace.studies.judge import judge, overall
from slmtrace.studies.remedies import find_remedy
from slmtrace.studies.repeat import Run
from tests.support.builders import MS, make_report, make_segments, make_window
from tools.fuzzing.damage import damage_json


def healthy_facts() -> dict[str, Any]:
    def window(total_ms: int, **causes: int) -> dict[str, Any]:
        found = {name.replace("__", "."): ms * 1_000_000 for name, ms in causes.items()}
        phases = {phase.label: 0 for phase in Phase}
        for name, ns in found.items():
            phases[name.partition(".")[0]] += ns
        phases["runtime"] += total_ms * 1_000_000 - sum(phases.values())
        return {"total_ns": total_ms * 1_000_000, "phases": phases, "causes": found}

    return {
        "host": {"cpu": "A CPU", "cpus": 8, "cpus_usable": 8, "memory_bytes": 64 << 30},
        "engine": {"engine": "hf", "engine_version": "5", "model": "tiny", "tier": "light"},
        "model_bytes": 1 << 30,
        "floors": {"disk_bytes_per_second": 2e9, "memory_bytes_per_second": 8e9},
        "measures": {
            "cold_load_real_s": 4.0,
            "warm_load_real_s": 3.0,
            "ttft_first_s": 0.2,
            "ttft_steady_s": 0.05,
            "tokens_per_second": 100.0,
            "rss_drift_bytes_per_request": 0.0,
            "ttft_spread": 1.1,
        },
        "windows": {
            "cold load": window(4000, storage__block_io_wait=900),
            "warm load": window(3000, storage__file_read_copy=100, scheduler__run_queue=30),
            "first ttft": window(200, compute__cpu_kernel=100),
            "later ttft": window(50, compute__cpu_kernel=40),
        },
        "unfinished": [],
        "not_done": [],
        "missing_sources": [],
        "state": {
            "memory": {"available_bytes": 32 << 30},
            "thp": {"enabled": "madvise", "defrag": "madvise"},
            "cgroup": {"cpu_limit_cpus": None},
            "cpu": {"governor": "performance"},
        },
        "kv_cache": [],
    }


def make_certificate(facts: dict[str, Any]) -> Certificate:
    checks = judge(facts)
    head = {
        "schema": SCHEMA,
        "created": "2026-01-02T03:04:05Z",
        "took_s": 31.0,
        "limit_s": 60.0,
        "verdict": overall(checks),
    }
    return Certificate({**head, "checks": [one.to_json() for one in checks], **facts})


def test_two_slow_later_requests_widen_the_spread_and_one_or_the_first_does_not() -> None:
    def spread(*prefills_ms: int, cause: Cause = Cause.CPU_KERNEL) -> float:
        windows = [
            make_window(
                WindowKind.TTFT,
                index,
                make_segments(
                    10**9 * index,
                    [(10 * MS, Stage.PREFILL, Cause.CPU_KERNEL, 0, -1), (ms * MS, Stage.PREFILL, cause, 0, -1)],
                ),
            )
            for index, ms in enumerate(prefills_ms)
        ]
        run = Run(make_report(windows), [])
        return float(describe(Model("tiny", Path(), (), {}), {}, run, run)["measures"]["ttft_spread"])

    assert spread(900, 10, 10, 10, 10, 10, 10, 10) == 1
    assert spread(10, 10, 90, 10, 10, 10, 10, 10) == 1
    assert spread(10, 10, 90, 10, 10, 70, 10, 10) == 4
    assert spread(10, 10, 90, 10, 10, 70, 10, 10, cause=Cause.RUN_QUEUE) == 1


def limited(bytes_per_second: int | None, requests_per_second: int | None = None) -> list[dict[str, Any]]:
    """Return the state of storage with limits on reads."""
    limits = {
        "read_limit_bytes_per_second": bytes_per_second,
        "read_limit_requests_per_second": requests_per_second,
    }
    return [
        {"filesystem": "ext4", "device": {"name": "sda", "read_ahead_kb": 128, "max_sectors_kb": 512, **limits}},
        {"device": None},
    ]


def change(facts: dict[str, Any], path: str, value: Any) -> None:
    *way, last = path.split("/")
    for step in way:
        facts = facts[step]
    facts[last] = value


def test_a_healthy_node_passes_every_check() -> None:
    assert {one.status for one in judge(healthy_facts())} == {"pass"}


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("unfinished", ["warm"], "time, warm run"),
        ("not_done", ["warm"], "time, warm run"),
        ("floors/disk_bytes_per_second", 20e6, "floor disk"),
        ("state/storage", limited(60_000_000), "cgroup reads"),
        ("state/storage", limited(None, 100), "cgroup reads"),
        ("floors/memory_bytes_per_second", 0.1e9, "floor memory"),
        ("windows/cold load/phases/storage", 20_000_000_000, "cold load storage"),
        ("windows/warm load/causes/scheduler.run_queue", 1_500_000_000, "CPU contention, warm load"),
        ("windows/later ttft/causes/scheduler.cpu_throttled", 20_000_000, "CPU quota, later ttft"),
        ("windows/warm load/causes/allocator.reclaim", 900_000_000, "memory pressure, warm load"),
        ("windows/warm load/causes/storage.major_fault", 1_500_000_000, "page cache, warm load"),
        ("measures/rss_drift_bytes_per_request", float(20 << 20), "RSS drift"),
        ("measures/ttft_spread", 9.0, "steadiness"),
        ("state/memory/available_bytes", 1 << 20, "memory available"),
        ("state/cgroup/memory_high_bytes", 1 << 20, "memory available"),
    ],
)
def test_each_fault_fails_its_own_check_alone(path: str, value: Any, name: str) -> None:
    facts = healthy_facts()
    change(facts, path, value)

    checks = judge(facts)

    assert [one.name for one in checks if one.status == "fail"] == [name]


@pytest.mark.parametrize(
    ("path", "value", "name"),
    [
        ("state/thp", {"enabled": "always", "defrag": "always"}, "huge pages"),
        ("state/cpu/governor", "powersave", "CPU governor"),
        ("state/cgroup/cpu_limit_cpus", 0.5, "cgroup CPUs"),
        ("state/storage", [{"device": {"name": "sda", "read_ahead_kb": 4}}], "readahead"),
        ("state/storage", limited(150_000_000), "cgroup reads"),
        ("state/storage", limited(2_100_000_000), "cgroup reads"),  # all that was measured
        ("missing_sources", ["ebpf"], "evidence"),
        ("floors", {"disk_bytes_per_second": 2e9}, "floor memory"),
    ],
)
def test_a_doubtful_setting_warns_and_does_not_fail(path: str, value: Any, name: str) -> None:
    facts = healthy_facts()
    change(facts, path, value)

    checks = judge(facts)

    assert overall(checks) == "warn"
    assert [one.name for one in checks if one.status == "warn"] == [name]


def test_a_node_much_slower_than_its_baseline_fails_and_names_the_phase() -> None:
    facts = healthy_facts()
    change(facts, "measures/warm_load_real_s", 6.0)
    change(facts, "windows/warm load/phases/allocator", 3_000_000_000)
    change(facts, "windows/warm load/causes/allocator.anon_fault", 3_000_000_000)

    failed = [one for one in judge(facts, healthy_facts()) if one.status == "fail"]

    assert [(one.name, one.phase, one.cause) for one in failed] == [
        ("baseline warm_load_real_s", "allocator", "anon_fault")
    ]


def test_unsteady_first_tokens_name_what_made_the_slow_ones_slow() -> None:
    facts = healthy_facts()
    change(facts, "measures/ttft_spread", 9.0)
    facts["windows"]["slow ttft"] = copy.deepcopy(facts["windows"]["later ttft"])
    change(facts, "windows/slow ttft/phases/scheduler", 400_000_000)
    change(facts, "windows/slow ttft/causes/scheduler.gil_wait", 400_000_000)

    (failed,) = [one for one in judge(facts) if one.status == "fail"]

    assert (failed.name, failed.phase, failed.cause) == ("steadiness", "scheduler", "gil_wait")


def test_memory_that_is_short_fails_once_its_limit_was_met() -> None:
    def status(n_reached: float) -> str:
        facts = healthy_facts()
        change(facts, "state/cgroup/memory_max_bytes", 3 << 29)
        change(facts, "measures/memory_limit_reached", n_reached)
        return next(one.status for one in judge(facts) if one.name == "memory available")

    assert (status(0.0), status(7.0)) == ("warn", "fail")


def test_a_small_readahead_fails_once_weights_come_much_slower_than_the_device_delivers() -> None:
    def status(read_s: float, read_ahead_kb: int = 4) -> str:
        facts = healthy_facts()  # 1 GiB at 2 GB/s: 0.54 s
        change(facts, "state/storage", [{"device": {"name": "sda", "read_ahead_kb": read_ahead_kb}}])
        change(facts, "measures/cold_weights_read_s", read_s)
        return next(one.status for one in judge(facts) if one.name == "readahead")

    assert (status(0.6), status(1.5), status(1.7)) == ("warn", "warn", "fail")
    assert status(1.7, read_ahead_kb=128) == "pass"


def test_what_a_cold_run_waited_for_its_weights_counts_the_first_request_and_not_the_imports() -> None:
    load = [(5 * MS, Stage.IMPORT, Cause.MAJOR_FAULT, 0, -1), (7 * MS, Stage.WEIGHTS, Cause.MAJOR_FAULT, 0, -1)]
    first = [(9 * MS, Stage.PREFILL, Cause.READAHEAD_WAIT, 0, -1), (3 * MS, Stage.PREFILL, Cause.CPU_KERNEL, 0, -1)]
    windows = [
        make_window(WindowKind.LOAD, 0, make_segments(0, load)),
        make_window(WindowKind.TTFT, 0, make_segments(10**9, first)),
    ]
    cold = Run(make_report(windows), [Answered(0.0, 1.0, 1, 0)])

    measures = describe(Model("tiny", Path(), (), {}), {}, cold, None)["measures"]

    assert measures["cold_weights_read_s"] == 0.016


def test_a_busy_neighbour_does_not_hide_another_fault() -> None:
    facts = healthy_facts()
    change(facts, "windows/warm load/causes/scheduler.run_queue", 2_000_000_000)
    change(facts, "windows/warm load/causes/allocator.reclaim", 300_000_000)

    failed = {one.name for one in judge(facts) if one.status == "fail"}

    assert failed == {"CPU contention, warm load", "memory pressure, warm load"}


@pytest.mark.parametrize(
    ("run", "label", "expected"),
    [("cold", "cold load", "runtime"), ("warm", "later ttft", "compute"), ("warm", "warm load", "runtime")],
)
def test_a_run_that_was_ended_names_what_it_was_at(run: str, label: str, expected: str) -> None:
    facts = healthy_facts()
    change(facts, "unfinished", [run])
    facts["windows"] = {label: facts["windows"][label]}

    (failed,) = [one for one in judge(facts) if one.status == "fail"]

    assert (failed.name, failed.phase) == (f"time, {run} run", expected)


def test_answers_that_are_enough_make_a_run_whole_and_a_run_without_time_leaves_the_rest() -> None:
    def unfinished(n_answers: int) -> Any:
        warm = Run(make_report([]), [Answered(0.0, 1.0, 8, 0)] * n_answers)
        return describe(Model("tiny", Path(), (), {}), {}, None, warm)

    few, enough, nothing = unfinished(3), unfinished(4), describe(Model("tiny", Path(), (), {}), {}, None, None)

    assert (few["unfinished"], few["not_done"]) == (["warm"], ["cold"])
    assert enough["unfinished"] == []
    assert (nothing["not_done"], nothing["windows"]) == (["cold", "warm"], {})
    jsonschema.validate(json.loads(render_certificate_json(make_certificate(nothing))), read_certificate_schema())


def test_a_limit_on_reads_far_above_what_the_device_gives_passes() -> None:
    facts = healthy_facts()
    change(facts, "state/storage", limited(8_000_000_000))

    assert overall(judge(facts)) == "pass"


def test_first_tokens_that_a_neighbour_made_unsteady_only_warn() -> None:
    facts = healthy_facts()
    change(facts, "measures/ttft_spread", 9.0)
    facts["windows"]["slow ttft"] = copy.deepcopy(facts["windows"]["later ttft"])
    change(facts, "windows/slow ttft/phases/scheduler", 20_000_000)
    change(facts, "windows/slow ttft/causes/scheduler.run_queue", 20_000_000)

    (doubtful,) = [one for one in judge(facts) if one.status != "pass"]

    assert (doubtful.name, doubtful.status, doubtful.cause) == ("steadiness", "warn", "run_queue")


def test_a_node_equal_to_its_baseline_passes() -> None:
    assert overall(judge(healthy_facts(), healthy_facts())) == "pass"


def test_the_certificate_fits_its_schema_and_comes_back_from_its_file(tmp_path: Path) -> None:
    certificate = make_certificate(healthy_facts())
    path = tmp_path / "certificate.json"
    path.write_text(render_certificate_json(certificate))

    jsonschema.validate(json.loads(path.read_text()), read_certificate_schema())
    assert read_certificate(path) == certificate


@pytest.mark.parametrize("text", ["{}", "[]", "[" * 100_000, '{"schema": "slmtrace.certificate/1"}'])
def test_a_file_that_is_no_certificate_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)

    with pytest.raises(CaptureError, match="is no certificate"):
        read_certificate(tmp_path / "x.json")


def test_a_damaged_baseline_is_refused_or_compared_with(tmp_path: Path) -> None:
    whole, facts = render_certificate_json(make_certificate(healthy_facts())).encode(), healthy_facts()
    path, n_refused = tmp_path / "certificate.json", 0
    for seed in range(300):
        path.write_bytes(damage_json(whole, random.Random(seed)))

        try:
            judge(facts, read_certificate(path).data)
        except CaptureError:
            n_refused += 1

    assert 100 < n_refused < 300


def test_every_check_comes_with_a_remedy() -> None:
    facts = healthy_facts()
    change(facts, "floors/h2d_bytes_per_second", 20e9)

    names = [one.name for one in judge(facts, healthy_facts())]

    assert [name for name in names if not find_remedy(name)] == []
    assert "floor h2d" in names


def test_text_and_page_say_the_verdict_and_the_reason() -> None:
    facts = copy.deepcopy(healthy_facts())
    change(facts, "floors/disk_bytes_per_second", 20e6)
    certificate = make_certificate(facts)

    assert render_certificate_text(certificate).startswith("FAIL")
    for shown in (render_certificate_text(certificate), render_certificate_html(certificate)):
        assert "iostat -x 1" in shown
        assert "the model&#x27;s device delivers 20.0 MB/s".replace("&#x27;", "'") in shown.replace("&#x27;", "'")


def test_a_certificate_recommends_what_its_runs_found_and_how_many_replicas_fit() -> None:
    window = make_window(WindowKind.LOAD, 0, make_segments(0, [(9 * MS, Stage.WEIGHTS, Cause.COMPACTION, 0, -1)]))
    finding = Finding("thp_compaction", Cause.COMPACTION.phase, Cause.COMPACTION, MS, "it moved", "", MS, "high")
    report = make_report([replace(window, findings=[finding])])

    found = recommend(Run(report, []), Run(report, [], rss_bytes=1 << 20, busy_cpus=1.0))
    certificate = replace(make_certificate(healthy_facts()), recommendations=found)

    assert [one.subject for one in found] == ["thp_compaction", "replicas"]
    for shown in (render_certificate_text(certificate), render_certificate_html(certificate)):
        assert "defer+madvise" in shown
        assert "fit this node" in shown
