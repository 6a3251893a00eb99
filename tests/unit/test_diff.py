"""What moved between recordings, and what is said first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from slmtrace.cli.main import main
from slmtrace.model.report import Report, SourceStatus
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.output.diff import compare, render_diff_json, render_diff_markdown, render_diff_text
from slmtrace.output.perfetto import write_perfetto
from tests.support.builders import MS, T0_NS, make_report, make_segments, make_window, sample_run

WEIGHTS = "/models/tiny/model.safetensors"


def loaded(
    storage_ns: int, cause: Cause = Cause.MAJOR_FAULT, memory: Cause = Cause.ANON_FAULT, memory_ns: int = 300 * MS
) -> Report:
    """Make a report of one load: what storage and memory took, and a second of the rest."""
    segments = make_segments(
        T0_NS,
        [
            (1_000 * MS, Stage.IMPORT, Cause.IMPORT, 0, -1),
            (storage_ns, Stage.WEIGHTS, cause, 0, -1),
            (memory_ns, Stage.WEIGHTS, memory, 0, -1),
        ],
    )
    detail = {cause: {"files": [{"name": WEIGHTS, "ns": storage_ns, "count": 12, "bytes": 512 << 20}]}}
    return make_report([make_window(WindowKind.LOAD, 0, segments, detail=detail)])


def with_state(report: Report, **topics: object) -> Report:
    return replace(report, state={**report.state, **{name: {"before": value} for name, value in topics.items()}})


COLD = with_state(loaded(900 * MS), page_cache={"resident_fraction": 0.0})
WARM = with_state(loaded(20 * MS, Cause.FILE_MINOR_FAULT), page_cache={"resident_fraction": 1.0})


def test_cold_and_warm_differ_in_the_faults_on_the_weights() -> None:
    text = render_diff_text(compare([COLD], [WARM]))

    lines = text.splitlines()
    assert lines[2].startswith("UNLIKE")
    assert lines[3].split() == ["weights", "cached", "before", "A:", "0", "%", "B:", "100", "%"]
    assert "load: B is 880 ms shorter (-40 %); most of it storage.major_fault (-900 ms)" in lines
    assert any("storage.major_fault" in line and "model.safetensors" in line for line in lines)


def test_two_allocators_differ_in_the_faults_on_memory() -> None:
    glibc = with_state(loaded(20 * MS), allocator={"name": "libc", "settings": []})
    jemalloc = with_state(
        loaded(20 * MS, memory=Cause.THP_FAULT, memory_ns=60 * MS),
        allocator={"name": "jemalloc", "settings": ["LD_PRELOAD"]},
    )

    comparison = compare([glibc], [jemalloc])

    assert [(one.fact, one.a, one.b) for one in comparison.unlike] == [
        ("allocator name", "libc", "jemalloc"),
        ("allocator settings", "none", "LD_PRELOAD"),
    ]
    assert "most of it allocator.anon_fault (-300 ms)" in render_diff_text(comparison)


def test_alike_recordings_are_said_to_be_alike() -> None:
    comparison = compare([COLD], [COLD])

    assert comparison.unlike == []
    assert "alike" in render_diff_text(comparison)
    assert "load: A and B take the same time" in render_diff_text(comparison)


def test_a_slightly_different_page_cache_is_alike() -> None:
    most = with_state(loaded(900 * MS), page_cache={"resident_fraction": 0.95})

    assert compare([WARM], [most]).unlike == []


def test_a_missing_certificate_is_unlike_any() -> None:
    unknown = replace(COLD, state={})

    facts = {one.fact: (one.a, one.b) for one in compare([COLD], [unknown]).unlike}

    assert facts["weights cached before"] == ("0 %", "not recorded")
    assert facts["thp enabled"] == ("madvise", "not recorded")


def test_unlike_versions_and_evidence_are_said() -> None:
    other = with_state(COLD, versions={"torch": "2.9"})
    old = with_state(COLD, versions={"torch": "2.8"})
    blind = replace(
        other, sources=[SourceStatus("ranges", "ok", "", 7, 0), SourceStatus("ebpf", "unavailable", "", 0, 0)]
    )

    facts = {one.fact: (one.a, one.b) for one in compare([old], [blind]).unlike}

    assert facts == {"evidence": ("ebpf pyspy ranges", "ranges"), "version of torch": ("2.8", "2.9")}


def test_repeats_that_differ_among_themselves_are_unlike() -> None:
    unlike = compare([COLD, WARM], [COLD, WARM]).unlike

    assert [(one.fact, one.a, one.b) for one in unlike] == [("weights cached before", "0 % or 100 %", "0 % or 100 %")]


def test_a_change_within_the_repeats_is_called_noise() -> None:
    a, b = [loaded(100 * MS), loaded(160 * MS)], [loaded(150 * MS), loaded(210 * MS)]

    comparison = compare(a, b)

    assert "within the noise of the repeats" in render_diff_text(comparison)
    assert json.loads(render_diff_json(comparison))["windows"][0]["total"]["beyond_noise"] is False


def test_a_change_beyond_the_repeats_is_not() -> None:
    a, b = [loaded(100 * MS), loaded(160 * MS)], [loaded(400 * MS), loaded(410 * MS)]

    comparison = compare(a, b)

    assert "noise of the repeats" not in render_diff_text(comparison)
    assert json.loads(render_diff_json(comparison))["windows"][0]["total"]["beyond_noise"] is True


def test_without_repeats_nothing_is_said_of_noise() -> None:
    assert json.loads(render_diff_json(compare([COLD], [WARM])))["windows"][0]["total"]["beyond_noise"] is None


def test_a_window_of_one_side_is_named() -> None:
    _, both = sample_run()
    load_only = replace(both, windows=both.windows[:1])

    comparison = compare([both], [load_only])

    assert [window.label for window in comparison.windows] == ["load"]
    assert comparison.unmatched == [f"ttft {index} is missing in B" for index in range(3)]


def test_hostile_names_stay_harmless() -> None:
    hostile = replace(COLD, capture={**COLD.capture, "engine": "a|b`\x1b[31m@everyone<script>"})

    markdown = render_diff_markdown(compare([COLD], [hostile]))

    assert "\x1b" not in markdown
    assert "`a\\|b'\\x1b[31m@everyone<script>`" in markdown


def test_what_is_shown_sums_to_the_total() -> None:
    _, report = sample_run()
    slower = replace(report, windows=[*report.windows[:1], *([replace(report.windows[3], index=0)])])

    text = render_diff_text(compare([report], [slower]), width=200)

    assert "others" in text
    assert max(map(len, text.splitlines())) <= 200


def test_traces_and_captures_are_compared_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, report = sample_run()
    write_perfetto(trace, report, tmp_path / "a.pftrace")
    longer = replace(report, windows=report.windows[:2])
    write_perfetto(trace, longer, tmp_path / "b.pftrace")

    assert main(["diff", str(tmp_path / "a.pftrace"), str(tmp_path / "b.pftrace"), "--format", "json"]) == 0

    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "slmtrace.diff/1"
    assert [window["total"]["delta_ns"] for window in data["windows"]] == [0, 0]
    assert len(data["unmatched"]) == 2


def test_an_odd_number_of_recordings_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "a", "b", "c"]) == 2
    assert "slmtrace diff A B A2 B2" in capsys.readouterr().err
