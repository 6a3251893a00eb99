"""The studies with real runs of the tiny model: a certificate, and a sweep that goes on."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest

from slmtrace.studies.certificate import read_certificate_schema

pytestmark = pytest.mark.hf


def slmtrace(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slmtrace", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_a_certificate_holds_what_it_says_and_its_exit_code_is_its_verdict(tmp_path: Path) -> None:
    done = slmtrace("certify", "--probes", "ranges,proc", "-o", tmp_path / "node")

    data = json.loads((tmp_path / "node" / "certificate.json").read_text())
    jsonschema.validate(data, read_certificate_schema())
    assert done.returncode == (5 if data["verdict"] == "fail" else 0), done.stderr
    assert done.stdout.startswith(data["verdict"].upper())
    assert {"cold_load_real_s", "warm_load_real_s", "ttft_first_s", "ttft_steady_s", "tokens_per_second"} <= set(
        data["measures"]
    )
    assert data["floors"]["memory_bytes_per_second"] > 0
    for window in data["windows"].values():
        assert sum(window["phases"].values()) == sum(window["causes"].values()) == window["total_ns"]
    assert (tmp_path / "node" / "certificate.html").read_text().startswith("<!doctype html>")
    assert all(isinstance(line, str) for line in data["recommendations"])


@pytest.mark.parametrize("limit_s", [10, 13])
def test_a_certificate_keeps_its_limit_and_says_what_there_was_no_time_for(tmp_path: Path, limit_s: int) -> None:
    start = time.monotonic()
    done = slmtrace("certify", "--probes", "ranges,proc", "--limit", str(limit_s), "-o", tmp_path / "node")
    took_s = time.monotonic() - start

    data = json.loads((tmp_path / "node" / "certificate.json").read_text())
    jsonschema.validate(data, read_certificate_schema())
    assert done.returncode == 5, done.stderr
    assert {"time, cold run", "time, warm run"} & {one["name"] for one in data["checks"] if one["status"] == "fail"}
    assert took_s < limit_s + 3  # the imports, and the end of a recording


def test_a_sweep_writes_its_table_and_records_nothing_twice(tmp_path: Path) -> None:
    arguments = ("sweep", "prompt-length", "--values", "16,256", "--repeats", "1", "-o", tmp_path / "sweep")

    first = slmtrace(*arguments)
    again = slmtrace(*arguments)

    with (tmp_path / "sweep" / "rows.csv").open() as file:
        rows = {row["prompt_tokens"]: row for row in csv.DictReader(file)}
    assert first.returncode == again.returncode == 0, first.stderr
    assert set(rows) == {"16", "256"}
    assert float(rows["256"]["ttft_steady_compute_s"]) > float(rows["16"]["ttft_steady_compute_s"])
    assert [line[:20] for line in first.stderr.splitlines()] == ["slmtrace: run 1 of 2", "slmtrace: run 2 of 2"]
    assert again.stderr == ""


@pytest.mark.root
@pytest.mark.parametrize("kind", ["hugepages", "readahead"])
def test_a_killed_sweep_leaves_the_node_as_it_was(tmp_path: Path, kind: str) -> None:
    settings = {
        "hugepages": [Path("/proc/sys/vm/nr_hugepages"), Path("/sys/kernel/mm/transparent_hugepage/enabled")],
        "readahead": sorted(Path("/sys/block").glob("*/queue/read_ahead_kb")),
    }
    before = [path.read_text() for path in settings[kind]]
    options = ("--apply", "--values", "64,8", "--repeats", "5")
    command = [sys.executable, "-m", "slmtrace", "sweep", kind, *options, "-o", str(tmp_path / "sweep")]

    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as sweep:
        is_changed = wait_until(lambda: [path.read_text() for path in settings[kind]] != before, 300)
        sweep.kill()
    is_put_back = wait_until(lambda: [path.read_text() for path in settings[kind]] == before, 60)

    assert is_changed
    assert is_put_back


def wait_until(holds: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_a_check_without_a_baseline_says_how_to_make_one() -> None:
    done = slmtrace("check")

    assert done.returncode == 2
    assert "--write-baseline" in done.stderr
