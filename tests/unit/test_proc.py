from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from slmtrace.decode import proc
from slmtrace.model.quality import Issue
from slmtrace.probes import procfs
from slmtrace.probes.base import RecordOptions
from slmtrace.probes.proc import ProcProbe
from tests.support.logs import make_context, new_capture, new_log, only_log


def test_a_counter_is_written_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    totals = iter([5, 5, 7, 7])
    monkeypatch.setattr(procfs, "read_pressure", lambda: {"io full": next(totals)})
    monkeypatch.setattr("slmtrace.probes.proc._vmstat_values", lambda: iter(()))
    monkeypatch.setattr("slmtrace.probes.proc._cgroup_values", lambda _: iter(()))
    monkeypatch.setattr(ProcProbe, "_absent", lambda _: [])
    capture = new_capture(tmp_path)
    probe = ProcProbe()
    probe.start(capture, RecordOptions(counter_hz=1_000_000))

    for _ in range(3):
        time.sleep(0.0001)
        probe.poll()
    result = probe.stop()

    fragment = proc.decode(only_log(capture), make_context())
    assert [(s.name, s.unit, s.value.tolist()) for s in fragment.counters if s.name.startswith("psi")] == [
        ("psi io full", "us", [5, 7])
    ]
    assert (result.seen, result.written, result.lost) == (fragment.decoded, fragment.decoded, {})
    assert result.overhead["reads"] == 4


def test_polls_between_two_readings_do_nothing(tmp_path: Path) -> None:
    probe = ProcProbe()
    probe.start(new_capture(tmp_path), RecordOptions(counter_hz=1))

    for _ in range(50):
        probe.poll()

    assert probe.stop().overhead["reads"] == 2


def test_the_memory_of_the_target_and_its_children_is_counted(tmp_path: Path) -> None:
    child = subprocess.Popen(["/bin/sh", "-c", "sleep 5 & wait"])
    wait_for_children(child.pid, 2)
    capture = new_capture(tmp_path)
    probe = ProcProbe()
    probe.start(capture, RecordOptions())
    probe.enroll(child.pid)
    probe.poll()
    tree = procfs.find_tree(child.pid)
    rss_bytes = procfs.rss_bytes(tree)

    probe.stop()
    for pid in reversed(tree):
        os.kill(pid, 9)
    child.wait()

    rss = next(s for s in proc.decode(only_log(capture), make_context()).counters if s.name == "rss")
    assert len(tree) == 2
    assert rss.unit == "bytes"
    assert rss.value.max() == pytest.approx(rss_bytes, rel=0.2)


def test_both_ways_to_find_the_tree_agree() -> None:
    child = subprocess.Popen(["/bin/sh", "-c", "sleep 5 & wait"])
    wait_for_children(child.pid, 2)

    by_children, by_scan = procfs._tree_by_children(child.pid), procfs._tree_by_scan(child.pid)

    for pid in reversed(by_scan):
        os.kill(pid, 9)
    child.wait()
    assert by_children == by_scan
    assert len(by_scan) == 2


def test_counters_are_in_order_of_time_whatever_the_order_of_records(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    log = new_log(capture, "proc")
    log.counter("rss bytes", 20, 2)
    log.counter("psi cpu some us", 5, 9)
    log.counter("rss bytes", 10, 1)
    log.close()

    counters = proc.decode(only_log(capture), make_context()).counters

    assert [(s.name, s.unit, s.ts_ns.tolist(), s.value.tolist()) for s in counters] == [
        ("psi cpu some", "us", [5], [9]),
        ("rss", "bytes", [10, 20], [1, 2]),
    ]


def test_a_counter_whose_name_was_lost_is_counted_as_an_issue(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    log = new_log(capture, "proc")
    log.counter("rss bytes", 20, 2)
    log.close()
    path = only_log(capture).path
    data = path.read_bytes()
    path.write_bytes(data[:4096] + data[4096 + 48 :])
    context = make_context()

    assert proc.decode(only_log(capture), context).counters == []
    assert context.quality.counts == {Issue.MISSING_STRING: 1}


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("pgfault 12\npgmajfault 3\n", {"pgfault": 12, "pgmajfault": 3}),
        ("MemTotal:       24684096 kB\nHugePages_Total:       0\n", {"MemTotal": 24684096, "HugePages_Total": 0}),
        ("low 0\nmax -1\nodd x\nlonely\n", {"low": 0, "max": -1}),
    ],
)
def test_tables_of_names_and_values_are_read(tmp_path: Path, text: str, table: dict[str, int]) -> None:
    (tmp_path / "table").write_text(text)

    assert procfs.read_table(tmp_path / "table") == table


def test_pressure_totals_are_read(tmp_path: Path) -> None:
    (tmp_path / "io").write_text(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=19988668\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=15722412\n"
    )

    assert procfs.read_pressure(tmp_path) == {"io some": 19988668, "io full": 15722412}


def test_a_choice_is_the_word_in_brackets(tmp_path: Path) -> None:
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    (tmp_path / "plain").write_text("schedutil\n")

    assert procfs.read_choice(tmp_path / "enabled") == "madvise"
    assert procfs.read_choice(tmp_path / "plain") == "schedutil"
    assert procfs.read_choice(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("membership", "tree", "expected"),
    [
        ("0::/app/job", ["app/job/cpu.max", "app/job/memory.max"], {"cpu": "app/job", "memory": "app/job"}),
        ("0::/../other", ["cpu.max", "memory.max"], {"cpu": "", "memory": ""}),
        (
            "4:cpu,cpuacct:/x\n3:memory:/y",
            ["cpu/cpu.shares", "memory/y/memory.stat"],
            {"cpu": "cpu", "memory": "memory/y"},
        ),
        ("7:blkio:/z", ["blkio/z/blkio.throttle.read_bps_device"], {"io": "blkio/z"}),
        ("", [], {}),
    ],
)
def test_the_cgroup_is_found_in_either_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, membership: str, tree: list[str], expected: dict[str, str]
) -> None:
    process, root = tmp_path / "proc", tmp_path / "cgroup"
    (process / "7").mkdir(parents=True)
    (process / "7" / "cgroup").write_text(membership)
    for name in tree:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1")
    monkeypatch.setattr(procfs, "PROC", process)
    monkeypatch.setattr(procfs, "CGROUP_ROOT", root)

    found = procfs.find_cgroup_dirs(7)

    assert found == {name: root / path for name, path in expected.items()}


def wait_for_children(pid: int, n: int) -> None:
    deadline = time.monotonic() + 5
    while len(procfs._tree_by_scan(pid)) < n and time.monotonic() < deadline:
        time.sleep(0.01)


def test_throttling_of_the_cgroups_above_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = tmp_path / "kubepods" / "pod"
    leaf.mkdir(parents=True)
    (leaf / "cpu.stat").write_text("nr_throttled 2\nthrottled_usec 700\n")
    (leaf.parent / "cpu.stat").write_text("nr_throttled 3\nthrottled_time 900000\n")  # version 1: ns
    monkeypatch.setattr(procfs, "CGROUP_ROOT", tmp_path)

    assert procfs.read_cpu_stat(leaf) == {"n_throttled": 5, "throttled_us": 1_600}


def test_a_cgroup_that_counts_no_throttling_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 5\n")
    monkeypatch.setattr(procfs, "CGROUP_ROOT", tmp_path)

    assert procfs.read_cpu_stat(tmp_path) == {}


def test_the_least_limit_on_reads_of_a_device_holds_in_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version, files in {
        "v2": {"io.max": "254:0 rbps=70000000 wbps=max riops=max wiops=max\n25:0 rbps=1 riops=1\n"},
        "v1": {"blkio.throttle.read_bps_device": "254:0 80000000\n", "blkio.throttle.read_iops_device": "254:0 900\n"},
    }.items():
        (tmp_path / version / "inner").mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / version / name).write_text(text)
    (tmp_path / "v2" / "inner" / "io.max").write_text("254:0 rbps=max wbps=5 riops=400 wiops=max\n")
    monkeypatch.setattr(procfs, "CGROUP_ROOT", tmp_path)

    assert procfs.read_io_limits(tmp_path / "v1" / "inner", "254:0") == {"rbps": 80_000_000, "riops": 900}
    assert procfs.read_io_limits(tmp_path / "v2" / "inner", "254:0") == {"rbps": 70_000_000, "wbps": 5, "riops": 400}
    assert procfs.read_io_limits(tmp_path / "v2" / "inner", "8:0") == {}
    assert procfs.read_io_limits(None, "254:0") == {}


def test_limits_of_memory_that_were_met_are_counted_in_both_versions(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / "memory.failcnt").write_text("41\n")
    (tmp_path / "v2").mkdir()
    (tmp_path / "v2" / "memory.events").write_text("high 7\nmax 0\n")

    assert procfs.read_memory_events(tmp_path / "v1") == {"failcnt": 41}
    assert procfs.read_memory_events(tmp_path / "v2") == {"high": 7, "max": 0}
    assert procfs.read_memory_events(None) == {}


def test_the_time_that_the_cpus_were_busy_is_without_idle_waiting_and_stolen_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stat").write_text("cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 1 2 4 1000 1000 8 16 1000 0 0\n")
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    monkeypatch.setattr(procfs, "TICKS_PER_S", 100)

    assert procfs.busy_us() == 310_000


def test_a_containers_own_count_of_busy_cpus_is_not_taken_for_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procfs, "PROC", tmp_path)
    (tmp_path / "stat").symlink_to("/proc/stat")  # another file system's file, as lxcfs has it

    assert procfs.busy_us() is None
