"""Sweeps: their order, their rows, what a kill leaves, and what is recommended of them."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from slmtrace.builtin import Answered, RunRequest
from slmtrace.errors import UsageError
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.studies.node_files import borrowed
from slmtrace.studies.plan import Order, plan_sweep
from slmtrace.studies.point import Point
from slmtrace.studies.recommend import emit, recommend, saturation_point
from slmtrace.studies.repeat import Run
from slmtrace.studies.setting import Variable
from slmtrace.studies.sweep import Row, order_turns, read_rows, run_sweep, write_tables
from slmtrace.studies.sweep_output import render_sweep_html, render_sweep_svg, render_sweep_text
from tests.support.builders import MS, make_report, make_segments, make_window

POINTS = plan_sweep("prompt-length", Order(RunRequest(cache="warm"), (64, 128, 256)))


def make_run(point: Point) -> Run:
    """Answer as a model would whose prefill takes a tenth of a millisecond a token."""
    prefill = point.request.n_prompt_tokens * MS // 10
    windows = [
        make_window(WindowKind.LOAD, 0, make_segments(0, [(300 * MS, Stage.IMPORT, Cause.IMPORT, 0, -1)])),
        *(
            make_window(
                WindowKind.TTFT,
                index,
                make_segments(10**9 * (index + 1), [(prefill, Stage.PREFILL, Cause.CPU_KERNEL, 0, -1)]),
            )
            for index in range(3)
        ),
    ]
    answers = [Answered(float(n), 0.5, 4, (100 + n) << 20) for n in range(3)]
    return Run(make_report(windows), answers, gpu_memory_bytes=5 << 30)


def test_each_round_has_every_point_once_and_its_own_order() -> None:
    turns = order_turns(POINTS, 6, seed=3)

    rounds = [[point.name for point, repeat in turns if repeat == number] for number in range(6)]
    assert all(Counter(names) == Counter(point.name for point in POINTS) for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1
    assert turns == order_turns(POINTS, 6, seed=3)


def test_rows_carry_the_times_under_their_names_and_the_phases_that_make_them(tmp_path: Path) -> None:
    row = run_sweep("prompt-length", POINTS, tmp_path, make_run, repeats=1)[0]

    assert row["warm_load_real_s"] == 0.3
    assert row["gen_latency_s"] == 0.5
    assert row["sequential_s"] == 2.5
    assert row["rss_drift_bytes"] == 1 << 20
    assert row["gpu_memory_used_bytes"] == 5 << 30
    assert row["ttft_steady_compute_s"] == row["ttft_steady_s"] == row["prompt_tokens"] / 10_000


def test_a_sweep_goes_on_where_a_kill_ended_it(tmp_path: Path) -> None:
    asked: list[str] = []

    def run(point: Point) -> Run:
        if len(asked) == 4:
            raise KeyboardInterrupt
        asked.append(point.name)
        return make_run(point)

    with pytest.raises(KeyboardInterrupt):
        run_sweep("prompt-length", POINTS, tmp_path, run, repeats=2)
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"point": "prompt_tok')  # cut off in the middle of a line
    asked.clear()
    rows = run_sweep("prompt-length", POINTS, tmp_path, run, repeats=2)

    assert len(asked) == 2
    assert Counter(row["point"] for row in rows) == dict.fromkeys((point.name for point in POINTS), 2)
    assert len(read_rows(tmp_path)) == 6


def test_a_directory_of_another_sweep_is_refused(tmp_path: Path) -> None:
    run_sweep("prompt-length", POINTS, tmp_path, make_run, repeats=1)

    with pytest.raises(UsageError, match="holds another sweep"):
        run_sweep("prompt-length", POINTS[:2], tmp_path, make_run, repeats=1)


def test_the_outputs_show_every_point_and_why_the_curve_bends(tmp_path: Path) -> None:
    rows = run_sweep("prompt-length", POINTS, tmp_path, make_run, repeats=2)
    write_tables(rows, tmp_path)

    text = render_sweep_text("prompt-length", rows, [])
    with (tmp_path / "rows.csv").open() as file:
        table = list(csv.DictReader(file))
    assert "19.2 ms of the difference compute" in text
    assert len(table) == 6
    for shown in (text, render_sweep_html("prompt-length", rows, []), render_sweep_svg(rows)):
        assert all(str(n) in shown for n in (64, 128, 256))


def test_points_are_shown_along_the_axis_in_whatever_order_they_were_recorded() -> None:
    rows: list[Row] = [{"point": f"prompt_tokens={n}", "repeat": 0, "ttft_steady_s": n / 1e4} for n in (256, 1024, 32)]

    lines = render_sweep_text("prompt-length", rows, []).splitlines()

    assert [line.split()[0] for line in lines[1:4]] == [f"prompt_tokens={n}" for n in (32, 256, 1024)]


def test_concurrency_saturates_where_throughput_stops_growing() -> None:
    spent = {1: 40.0, 2: 20.0, 4: 11.0, 8: 10.9}
    rows: list[Row] = [
        {"point": f"concurrency={n}", "concurrency": n, "n_requests": 40, "concurrent_s": s} for n, s in spent.items()
    ]

    assert saturation_point(rows) == 4


def allocator_points() -> list[Point]:
    preload = Variable("LD_PRELOAD", "libjemalloc.so.2")
    return [Point({"allocator": "glibc"}, RunRequest()), Point({"allocator": "jemalloc"}, RunRequest(), (preload,))]


def allocator_rows(glibc_s: float, jemalloc_s: float) -> list[Row]:
    times = {"allocator=glibc": glibc_s, "allocator=jemalloc": jemalloc_s}
    return [
        {"point": point, "repeat": n, "gen_latency_s": s * (1 + 0.004 * n)}
        for point, s in times.items()
        for n in range(5)
    ]


def test_a_faster_allocator_is_recommended_with_its_gain() -> None:
    (found,) = recommend(allocator_points(), allocator_rows(1.0, 0.8))

    assert found.gain == pytest.approx(0.2, abs=0.01)
    assert 0.15 < found.least_gain <= found.gain
    assert "LD_PRELOAD=libjemalloc.so.2" in found.text


@pytest.mark.parametrize("jemalloc_s", [1.0, 0.99, 1.2])
def test_nothing_is_recommended_without_a_gain(jemalloc_s: float) -> None:
    assert recommend(allocator_points(), allocator_rows(1.0, jemalloc_s)) == []


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("systemd", 'Environment="LD_PRELOAD=libjemalloc.so.2"'),
        ("k8s", '- {name: LD_PRELOAD, value: "libjemalloc.so.2"}'),
        ("sysctl", "# no sysctl: set LD_PRELOAD=libjemalloc.so.2 for the service"),
    ],
)
def test_a_snippet_sets_what_was_recommended(form: str, line: str) -> None:
    found = recommend(allocator_points(), allocator_rows(1.0, 0.8))

    assert line in emit(found, form).splitlines()


def test_each_installed_allocator_is_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: f"lib{name}.so.2")

    points = plan_sweep("allocator", Order(RunRequest()))
    environ = {point.values["allocator"]: dict(point.whole_request.environ) for point in points}

    assert environ == {
        "glibc": {},
        "jemalloc": {"LD_PRELOAD": "libjemalloc.so.2"},
        "tcmalloc": {"LD_PRELOAD": "libtcmalloc_minimal.so.2"},
        "mimalloc": {"LD_PRELOAD": "libmimalloc.so.2"},
    }


def test_without_another_allocator_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)

    with pytest.raises(UsageError, match="nothing to compare") as caught:
        plan_sweep("allocator", Order(RunRequest()))

    assert "libjemalloc2" in caught.value.hint


def test_kinds_of_vllm_need_vllm() -> None:
    with pytest.raises(UsageError, match="needs --engine vllm"):
        plan_sweep("kv", Order(RunRequest()))


def test_a_borrowed_setting_is_put_back_after_an_error(tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never")

    with pytest.raises(ValueError), borrowed(setting):
        setting.write_text("never")
        raise ValueError

    assert setting.read_text() == "madvise"


def test_a_borrowed_setting_is_put_back_after_a_kill(tmp_path: Path) -> None:
    setting = tmp_path / "enabled"
    setting.write_text("always [madvise] never")
    program = f"""
import time
from pathlib import Path
from slmtrace.studies.node_files import borrowed
with borrowed(Path({str(setting)!r})):
    Path({str(setting)!r}).write_text("never")
    print("set", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    for _ in range(200):
        if setting.read_text() == "madvise":
            break
        time.sleep(0.05)

    assert setting.read_text() == "madvise"
