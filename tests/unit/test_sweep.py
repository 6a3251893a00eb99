"""Sweeps: their order, their rows, what a kill leaves, and what is recommended of them."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slmtrace.builtin import Answered, RunRequest
from slmtrace.engines.models import Model
from slmtrace.errors import SlmtraceError, UsageError
from slmtrace.model.report import WindowReport
from slmtrace.model.sched import empty_sched
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.studies import node_kinds
from slmtrace.studies.chart import line_chart
from slmtrace.studies.cpu_list import format_cpus, parse_cpus
from slmtrace.studies.density import Node, fit_replicas
from slmtrace.studies.kind import Order
from slmtrace.studies.node_files import borrowed, write_node_file
from slmtrace.studies.plan import plan_sweep
from slmtrace.studies.point import Point
from slmtrace.studies.recommend import recommend, saturation_point
from slmtrace.studies.recommendation import emit
from slmtrace.studies.repeat import Run, count_busy_cpus
from slmtrace.studies.run_settings import Cpus, EngineArgument, NumaPolicy, Prefetch
from slmtrace.studies.setting import HugePagePool, NodeFile, Setting, Variable, merge_snippets
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
    return Run(make_report(windows), answers, gpu_memory_bytes=5 << 30, rss_bytes=1 << 30, busy_cpus=1.5)


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
    assert (row["gpu_memory_used_bytes"], row["rss_bytes"], row["busy_cpus"]) == (5 << 30, 1 << 30, 1.5)
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

    gain, least_gain = map(float, re.findall(r"([\d.]+) %", found.reason))
    assert gain == pytest.approx(20, abs=1)
    assert 15 < least_gain <= gain
    assert found.text.endswith("; LD_PRELOAD=libjemalloc.so.2")


@pytest.mark.parametrize("jemalloc_s", [1.0, 0.99, 1.2])
def test_nothing_is_recommended_without_a_gain(jemalloc_s: float) -> None:
    assert recommend(allocator_points(), allocator_rows(1.0, jemalloc_s)) == []


def test_cold_points_are_held_against_the_cold_one_and_told_what_differs_alone(node: Path) -> None:
    points = plan_sweep("hugepages", Order(RunRequest(), (8,), may_apply=True))
    rows = [
        {"point": point.name, "repeat": n, f"{point.request.cache}_load_real_s": s * (1 + 0.004 * n)}
        for point in points
        for n in range(5)
        for s in [0.7 if point.name == "cache=cold thp=madvise hugepages=8" else 1.0]
    ]

    (found,) = recommend(points, rows)

    assert found.subject == "cache=cold thp=madvise hugepages=8"
    assert [one.key for one in found.settings] == [str(node / "pool"), "GLIBC_TUNABLES"]


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


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the files of a node that sweeps set: a mode, a pool of huge pages, and the queue of the weights' disk."""
    files = {
        "thp": "always [madvise] never\n",
        "pool": "3\n",
        "sda/queue/read_ahead_kb": "256\n",
        "sda/sda1/partition": "1",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sda1").symlink_to(tmp_path / "sda" / "sda1")
    monkeypatch.setattr(node_kinds, "THP_ENABLED", tmp_path / "thp")
    monkeypatch.setattr(HugePagePool, "PATH", tmp_path / "pool")
    monkeypatch.setattr(node_kinds, "BLOCK_DEVICES", tmp_path / "block")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(5 << 20))
    model = Model("model", tmp_path, (weights,), {})
    monkeypatch.setattr(node_kinds, "find_model", lambda name: model)
    monkeypatch.setattr(node_kinds, "read_storage", lambda files, pid: [{"device": {"name": "sda1"}}, {"device": None}])
    return tmp_path


def test_huge_pages_are_crossed_with_caches_and_modes_and_malloc_is_told_to_use_them(node: Path) -> None:
    points = plan_sweep("hugepages", Order(RunRequest(), (8,), may_apply=True))

    assert len({point.name for point in points}) == len(points) == 12
    assert points[0].name == "cache=cold thp=madvise hugepages=0"  # as the node was found
    assert points[0].node_files == {node / "thp": "madvise", node / "pool": "3"}
    assert not points[0].whole_request.environ
    (pool,) = [point for point in points if point.name == "cache=warm thp=never hugepages=8"]
    assert pool.node_files == {node / "thp": "never", node / "pool": "11"}
    assert pool.whole_request.environ == {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=2"}


def test_the_usual_pool_holds_the_weights_and_more(node: Path) -> None:
    points = plan_sweep("hugepages", Order(RunRequest(), may_apply=True))

    (size,) = {int(point.values["hugepages"]) for point in points} - {0}
    assert size * 2 >= 5 + 512


def test_a_pool_that_the_memory_cannot_spare_is_refused(node: Path) -> None:
    with pytest.raises(UsageError, match="more than half of the memory"):
        plan_sweep("hugepages", Order(RunRequest(), (1 << 30,), may_apply=True))


def test_readahead_is_swept_on_the_whole_disk_from_cold_and_begins_with_what_was_found(node: Path) -> None:
    points = plan_sweep("readahead", Order(RunRequest(), may_apply=True))

    assert [point.name for point in points] == [f"read_ahead_kb={kb}" for kb in (256, 128, 1024, 8192)]
    assert points[2].node_files == {node / "sda" / "queue" / "read_ahead_kb": "1024"}
    named = plan_sweep("readahead", Order(RunRequest(), (64, 256), may_apply=True))
    assert [point.name for point in named] == ["read_ahead_kb=256", "read_ahead_kb=64"]
    assert {point.request.cache for point in points} == {"cold"}


@pytest.mark.parametrize("kind", ["hugepages", "readahead"])
def test_a_node_is_not_changed_without_being_told(node: Path, kind: str) -> None:
    with pytest.raises(UsageError, match="changes settings of this node"):
        plan_sweep(kind, Order(RunRequest()))


def test_a_sweep_sets_the_node_before_each_run_and_puts_back_what_it_found(node: Path, tmp_path: Path) -> None:
    points = plan_sweep("hugepages", Order(RunRequest(), (8,), may_apply=True))
    seen = {}

    def run(point: Point) -> Run:
        seen[point.name] = {path: path.read_text() for path in point.node_files}
        return make_run(point)

    run_sweep("hugepages", points, tmp_path / "sweep", run, repeats=1)

    assert seen == {point.name: point.node_files for point in points}
    assert ((node / "thp").read_text(), (node / "pool").read_text()) == ("madvise", "3")


def test_a_value_that_the_kernel_did_not_take_is_an_error() -> None:
    with pytest.raises(SlmtraceError, match="after 9 was written to it"):
        write_node_file(Path("/dev/null"), "9")


def test_a_pool_is_a_sysctl_and_to_kubernetes_a_resource() -> None:
    pool = HugePagePool(Path("/proc/sys/vm/nr_hugepages"), "515", 512 << 21, 2 << 20)

    assert pool.command == "sysctl -w vm.nr_hugepages=515"
    assert "vm.nr_hugepages = 515" in merge_snippets([pool], "sysctl")
    assert 'ExecStartPre=+/bin/sh -c "echo 515 > /proc/sys/vm/nr_hugepages"' in merge_snippets([pool], "systemd")
    assert "    hugepages-2Mi: 1024Mi" in merge_snippets([pool], "k8s")


def test_what_is_no_sysctl_is_kept_by_tmpfiles() -> None:
    readahead = NodeFile(Path("/sys/block/sda/queue/read_ahead_kb"), "4096")

    assert merge_snippets([readahead], "sysctl") == [
        "# /etc/tmpfiles.d/slmtrace.conf",
        "w /sys/block/sda/queue/read_ahead_kb - - - - 4096",
    ]


def test_of_two_values_for_one_thing_the_first_is_kept() -> None:
    thp = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    both = [NodeFile(thp, "always"), Variable("A", "1"), NodeFile(thp, "never")]

    lines = merge_snippets(both, "systemd")

    assert lines[0] == "[Service]"
    assert len(lines) == 3
    assert not any("never" in line for line in lines)


def test_cpus_are_all_of_them_then_one_of_each_core_then_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(6):
        siblings = tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        siblings.parent.mkdir(parents=True)
        siblings.write_text(f"{cpu % 3},{cpu % 3 + 3}\n")
    monkeypatch.setattr(node_kinds, "CPUS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 3, 4, 5})
    monkeypatch.setattr(node_kinds, "read_numa", lambda pid: {"nodes": [{"node": 0, "cpus": "0-5"}]})

    points = plan_sweep("cpus", Order(RunRequest()))

    assert [point.values["cpus"] for point in points] == ["0-1,3-5", "0-1,5", "0-1"]
    assert [point.whole_request.prefix for point in points] == [
        (),
        ("taskset", "-c", "0-1,5"),
        ("taskset", "-c", "0-1"),
    ]


def test_memory_is_bound_to_each_numa_node(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"node": 0, "cpus": "0-3"}, {"node": 1, "cpus": "4-7"}, {"node": 2, "cpus": ""}]
    monkeypatch.setattr(node_kinds, "read_numa", lambda pid: {"nodes": nodes})
    monkeypatch.setattr("shutil.which", lambda name: name)

    points = plan_sweep("numa", Order(RunRequest()))

    assert {point.name: point.whole_request.prefix for point in points} == {
        "numa=default": (),
        "numa=interleave": ("numactl", "--interleave=all"),
        "numa=node 0": ("numactl", "--cpunodebind=0", "--membind=0"),
        "numa=node 1": ("numactl", "--cpunodebind=1", "--membind=1"),
    }


def test_one_numa_node_is_nothing_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_kinds, "read_numa", lambda pid: {"nodes": [{"node": 0, "cpus": "0-3"}]})

    with pytest.raises(UsageError, match="nothing to compare"):
        plan_sweep("numa", Order(RunRequest()))


def test_weights_are_prefetched_aside_or_by_the_engine(node: Path) -> None:
    hf, vllm = (plan_sweep("prefetch", Order(RunRequest(engine=engine))) for engine in ("hf", "vllm"))

    assert [point.name for point in hf] == ["prefetch=none", "prefetch=cat"]
    assert hf[1].whole_request.prefix == ("sh", "-c", f'cat {node}/*.safetensors > /dev/null & exec "$@"', "sh")
    assert vllm[2].whole_request.vllm.arguments == ("--safetensors-load-strategy", "prefetch")
    assert {point.request.cache for point in (*hf, *vllm)} == {"cold"}


@pytest.mark.parametrize(
    ("kind", "flag"), [("batch-tokens", "max-num-batched-tokens"), ("batch-requests", "max-num-seqs")]
)
def test_limits_on_batches_are_compared_with_the_engines_own(kind: str, flag: str) -> None:
    own, limited = plan_sweep(kind, Order(RunRequest(engine="vllm"), (64,)))

    assert own.values == {flag.replace("-", "_"): "default"}
    assert own.request.vllm.concurrency == 16
    assert not own.whole_request.vllm.arguments
    assert limited.whole_request.vllm.arguments == (f"--{flag}", "64")
    assert {type(value) for point in (own, limited) for value in point.values.values()} == {str}  # one type a column


@pytest.mark.parametrize(
    ("setting", "systemd", "k8s"),
    [
        (EngineArgument("--max-num-seqs", "64"), "# add to ExecStart=: --max-num-seqs 64", '- "--max-num-seqs=64"'),
        (Cpus((0, 1, 2, 8)), "CPUAffinity=0-2,8", "    cpu: 4"),
        (NumaPolicy("bind", "1"), "NUMAMask=1", "single-numa-node"),
        (NumaPolicy("interleave"), "NUMAPolicy=interleave", "# numactl --interleave=all before the command"),
        (
            Prefetch((Path("/m/a.safetensors"),)),
            'cat /m/*.safetensors > /dev/null & exec "$$@"',
            "command: [sh, -c, 'cat",
        ),
    ],
)
def test_what_a_run_was_given_is_kept_for_a_service(setting: Setting, systemd: str, k8s: str) -> None:
    assert systemd in "\n".join(merge_snippets([setting], "systemd"))
    assert k8s in "\n".join(merge_snippets([setting], "k8s"))


def test_limits_of_a_container_stand_under_one_head() -> None:
    pool = HugePagePool(Path("/proc/sys/vm/nr_hugepages"), "4", 8 << 20, 2 << 20)

    lines = merge_snippets([pool, Cpus((0, 1))], "k8s")

    assert lines[-5:] == ["resources:", "  limits:", "    hugepages-2Mi: 8Mi", "    memory: YOUR-LIMIT", "    cpu: 2"]


@pytest.mark.parametrize("text", ["0", "0-3", "0-1,3,5-8", ""])
def test_lists_of_cpus_come_back_as_they_were(text: str) -> None:
    assert format_cpus(sorted(parse_cpus(text))) == text


def measured_row(**values: float) -> Row:
    return {"point": "threads=4", "repeat": 0, "busy_cpus": 3.9, "rss_bytes": 4 << 30, **values}


@pytest.mark.parametrize(
    ("node", "row", "n", "limit"),
    [
        (Node(16, 64 << 30), measured_row(), 4, "CPUs"),
        (Node(64, 9 << 30), measured_row(), 2, "memory"),
        (Node(64, 64 << 30, (80 << 30, 80 << 30)), measured_row(gpu_memory_used_bytes=30 << 30), 4, "GPU memory"),
        (Node(2, 64 << 30), measured_row(), 1, "CPUs"),
    ],
)
def test_what_runs_out_first_limits_the_replicas(node: Node, row: Row, n: int, limit: str) -> None:
    (found,) = fit_replicas([row], node)

    assert found.reason.startswith(f"{n} fit this node, limited by {limit} (")
    assert found.confidence == "computed"
    assert "    cpu: 3900m" in emit([found], "k8s").splitlines()


def test_replicas_are_sized_where_throughput_saturates() -> None:
    rows: list[Row] = [
        {"point": f"concurrency={n}", "concurrency": n, "n_requests": 8, "concurrent_s": s, **sizes}
        for n, s, sizes in (
            (1, 8.0, {"busy_cpus": 1.0, "rss_bytes": 1 << 30}),
            (4, 2.0, {"busy_cpus": 2.0, "rss_bytes": 2 << 30}),
            (8, 2.0, {"busy_cpus": 2.0, "rss_bytes": 8 << 30}),
        )
    ]

    (found,) = fit_replicas(rows, Node(64, 64 << 30))

    assert found.reason.startswith("32 fit this node")
    assert "at 4 requests at a time" in found.reason


def test_without_measurements_nothing_is_said_of_replicas() -> None:
    assert fit_replicas([{"point": "threads=4", "repeat": 0, "rss_bytes": 1 << 30}], Node(64, 64 << 30)) == []


def test_busy_cpus_are_those_that_threads_held_in_the_later_requests() -> None:
    def request(index: int) -> WindowReport:
        return make_window(
            WindowKind.TTFT, index, make_segments(index * 100, [(100, Stage.PREFILL, Cause.CPU_KERNEL, 0, -1)])
        )

    starts, ends = np.array([0, 150, 120], np.int64), np.array([100, 250, 200], np.int64)
    tracks = np.array([0, 0, 1], np.int32)
    sched = replace(empty_sched(), run_track=tracks, run_start_ns=starts, run_end_ns=ends)

    busy = count_busy_cpus(sched, make_report([request(0), request(1)]))

    assert busy == (50 + 80) / 100


def test_labels_slope_where_they_would_run_into_one_another() -> None:
    short, long = (
        line_chart("cache", {"load_s": {f"{word} {n}": [1.0] for n in range(12)}}) for word in ("a", "a" * 25)
    )

    assert "rotate" not in short
    assert long.count("rotate") == 12
