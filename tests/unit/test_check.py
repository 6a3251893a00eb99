"""The regression gate over reports made by hand: what it decides, names and writes."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from slmtrace.errors import CaptureError, UsageError
from slmtrace.model.report import Report
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.output.json_ import render_json
from slmtrace.studies.baseline import read_baseline
from slmtrace.studies.check import CheckResult, check
from slmtrace.studies.check_output import render_check_junit, render_check_summary, render_check_text
from slmtrace.studies.sequential import Decision
from tests.support.builders import MS, US, make_report, make_segments, make_window


def make_run(wiggle: int, *, fault_ms: int = 100, prefill_ms: int = 50, queue_ms: int = 0) -> Report:
    """Make a run whose times differ by a few thousandths from those of another, and that waited for a CPU."""
    load = [
        (queue_ms * MS + US, Stage.IMPORT, Cause.RUN_QUEUE, 0, -1),
        (500 * MS + wiggle * 300 * US, Stage.IMPORT, Cause.IMPORT, 0, -1),
        (fault_ms * MS, Stage.WEIGHTS, Cause.MAJOR_FAULT, 0, -1),
    ]
    windows = [make_window(WindowKind.LOAD, 0, make_segments(0, load))]
    for index in range(3):
        pieces = [(prefill_ms * MS + wiggle * 30 * US + index * US, Stage.PREFILL, Cause.CPU_KERNEL, 0, -1)]
        windows.append(make_window(WindowKind.TTFT, index, make_segments(10**9 * (index + 1), pieces)))
    return make_report(windows)


def recorder(**fields: int) -> Callable[[], Report]:
    numbers = itertools.cycle([3, 1, 4, 0, 5, 2, 6])
    return lambda: make_run(next(numbers), **fields)


def run_check(baseline: list[Report] | None = None, **fields: int) -> CheckResult:
    before = [make_run(n) for n in range(8)] if baseline is None else baseline
    return check(before, recorder(**fields), max_regression=0.05, max_repeats=24)


def test_equal_runs_pass_with_few_repeats() -> None:
    result = run_check()

    assert {one.decision for one in result.verdicts} == {Decision.PASS}
    assert result.n_repeats < 12


def test_a_slower_load_is_a_regression_of_the_load_alone() -> None:
    result = run_check(fault_ms=160)

    decided = {one.label: one.decision for one in result.verdicts}
    assert decided["load"] is Decision.REGRESSION
    assert Decision.REGRESSION not in (decided["first ttft"], decided["later ttft"])


def test_the_text_names_the_phase_and_the_cause_that_moved() -> None:
    text = render_check_text(run_check(fault_ms=160))

    assert "storage.major_fault" in text
    assert "phase storage +60.0 ms" in text


def test_junit_fails_the_slow_window_and_no_other() -> None:
    suite = ElementTree.fromstring(render_check_junit(run_check(fault_ms=160)))

    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    assert failed == ["load"]
    assert suite.get("failures") == "1"
    assert suite.get("tests") == "3"


def test_the_summary_is_a_table_with_a_line_for_each_window() -> None:
    summary = render_check_summary(run_check(prefill_ms=80))

    assert summary.startswith("### slmtrace check: ")
    for label in ("load", "first ttft", "later ttft"):
        assert f"| {label} |" in summary
    assert "compute.cpu_kernel" in summary


def contended(**fields: int) -> Callable[[], Report]:
    """Return what records runs beside programs that take the CPUs for as long again and longer, or not at all."""
    numbers = itertools.cycle([(3, 900), (1, 0), (4, 2500), (0, 400), (5, 0), (2, 1700), (6, 60)])
    runs = itertools.starmap(lambda wiggle, queue_ms: make_run(wiggle, queue_ms=queue_ms, **fields), numbers)
    return lambda: next(runs)


@pytest.mark.parametrize(("fault_ms", "expected"), [(100, Decision.PASS), (160, Decision.REGRESSION)])
def test_a_load_is_decided_without_its_waits_for_a_cpu_that_others_took(fault_ms: int, expected: Decision) -> None:
    take = contended()
    result = check([take() for _ in range(16)], contended(fault_ms=fault_ms), max_regression=0.05, max_repeats=24)

    (load,) = [one for one in result.verdicts if one.label == "load"]
    assert (load.decision, load.is_own_time) == (expected, True)
    assert "without waits for a CPU" in render_check_text(result)


def test_a_longer_wait_for_a_cpu_is_a_regression_where_nothing_else_runs() -> None:
    result = check([make_run(n % 7) for n in range(16)], recorder(queue_ms=200), max_regression=0.05, max_repeats=24)

    (load,) = [one for one in result.verdicts if one.label == "load"]
    assert (load.decision, load.is_own_time) == (Decision.REGRESSION, False)


def test_a_baseline_recorded_now_grows_with_the_runs() -> None:
    result = check(
        [], recorder(fault_ms=160), max_regression=0.05, max_repeats=24, record_baseline=recorder(fault_ms=100)
    )

    assert result.n_baseline == result.n_repeats
    assert result.is_regression


@pytest.mark.parametrize(("noise_ms", "remedy"), [(40, "try: --max-repeats "), (300, "try: a quieter machine")])
def test_what_could_not_be_decided_says_what_would_decide_it(noise_ms: int, remedy: str) -> None:
    rng = random.Random(3)

    def record() -> Report:
        return make_run(0, fault_ms=round(abs(rng.gauss(500, noise_ms))))

    result = check([], record, max_regression=0.05, max_repeats=16, record_baseline=record)

    assert remedy in render_check_text(result)


def test_each_run_is_announced_with_its_number_and_the_most_there_will_be() -> None:
    lines: list[str] = []

    result = check([], recorder(), max_regression=0.05, max_repeats=24, record_baseline=recorder(), say=lines.append)

    announced = [f"{name} {n + 1} of at most 24" for n in range(result.n_repeats) for name in ("baseline run", "run")]
    assert sorted(lines) == sorted(announced)


def test_a_baseline_is_a_directory_of_breakdowns_or_the_files_themselves(tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"{n}.json").write_text(render_json(make_run(n)))

    from_directory = read_baseline([tmp_path])
    from_files = read_baseline(sorted(tmp_path.glob("*.json")))

    assert [run.windows[0].total_ns for run in from_directory] == [run.windows[0].total_ns for run in from_files]
    assert len(from_directory) == 4


@pytest.mark.parametrize(("key", "value"), [("end_ns", 0), ("phases", {})])
def test_a_breakdown_that_does_not_add_up_is_no_baseline(key: str, value: object, tmp_path: Path) -> None:
    document = json.loads(render_json(make_run(0)))
    document["windows"][0][key] = value
    for n in range(4):
        (tmp_path / f"{n}.json").write_text(json.dumps(document))

    with pytest.raises(CaptureError, match=r"0\.json is no breakdown"):
        read_baseline([tmp_path])


def test_a_baseline_of_too_few_runs_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "base.json").write_text(render_json(make_run(0)))

    with pytest.raises(UsageError) as refused:
        read_baseline([tmp_path / "base.json"])

    assert "--write-baseline" in refused.value.hint


@pytest.mark.parametrize("text", ['{"schema": "other"}', "[]", "null", "[" * 100_000, '{"schema": 1e999}'])
def test_a_file_that_is_no_breakdown_is_named(text: str, tmp_path: Path) -> None:
    for n in range(4):
        (tmp_path / f"{n}.json").write_text(text)

    with pytest.raises(CaptureError, match=r"0\.json is no breakdown"):
        read_baseline([tmp_path])
