"""From a fault that was injected to the finding that names it, on a real machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slmtrace.engines.synthesis import make_model

ROOT = Path(__file__).parents[2]
WEIGHTS_BYTES = 128 << 20
# Four processes want more CPUs than the quota has, also on a machine that is busy with other things.
BURN = """
import os, time
children = [pid for pid in (os.fork() for _ in range(2)) if pid]
until = time.thread_time() + 0.4
while time.thread_time() < until: pass
for pid in children: os.waitpid(pid, 0)
"""
READ = "import sys\nwith open(sys.argv[1], 'rb', buffering=0) as file:\n    while file.read(1 << 20): pass"


def record(capture: Path, fault: list[str], command: list[str]) -> dict[str, Any]:
    """Record a command of slmtrace's with a fault, and return the breakdown."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.faults", *fault, "--", sys.executable, "-m", "slmtrace", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot be injected" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads((capture / "breakdown.json").read_text())
    return content


def findings(window: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {finding["id"]: finding for finding in window["findings"]}


@pytest.mark.root
@pytest.mark.bpf
def test_a_cpu_quota_is_named(tmp_path: Path) -> None:
    capture = tmp_path / "capture"

    report = record(capture, ["cpu_quota"], ["record", "-o", str(capture), "--", sys.executable, "-c", BURN])

    assert "cpu_quota" in findings(report["windows"][0])


@pytest.mark.hf
def test_a_tokenizer_that_sleeps_is_named_in_every_request(tmp_path: Path) -> None:
    make_model("tiny", tmp_path / "tiny")
    capture = tmp_path / "capture"

    report = record(capture, ["tokenizer_sleeps"], ["run", "--model", str(tmp_path / "tiny"), "-o", str(capture)])

    found = [findings(window) for window in report["windows"] if window["name"] == "ttft"]
    assert len(found) == 3
    # 100 ms each, less what a tokenizer may take.
    assert all(one["slow_tokenizer"]["excess_ns"] >= 90_000_000 for one in found)


@pytest.mark.root
@pytest.mark.bpf
def test_reads_that_a_limit_holds_back_are_named_and_lifting_it_saves_what_was_predicted(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(WEIGHTS_BYTES))
    fault = ["io_throttled", "--model", str(tmp_path)]
    windows = {}
    for name, options in (("held", []), ("lifted", ["--cured"])):
        command = ["record", "-o", str(tmp_path / name), "--", sys.executable, "-c", READ, str(weights)]
        windows[name] = record(tmp_path / name, [*fault, *options], command)["windows"][0]

    predicted_ns = findings(windows["held"])["io_throttled"]["predicted_gain_ns"]
    # 128 MiB at 60 MB/s.
    assert predicted_ns >= 1_500_000_000
    assert "io_throttled" not in findings(windows["lifted"])
    assert windows["held"]["total_ns"] - windows["lifted"]["total_ns"] >= 0.5 * predicted_ns
