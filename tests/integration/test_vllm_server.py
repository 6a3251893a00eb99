"""A real vLLM server, asked by the built-in client: every request is followed from send to receive.

    PATH=VENV/bin:$PATH VLLM_CPU_KVCACHE_SPACE=1 pytest tests/integration/test_vllm_server.py

tools/vllm_cpu VENV makes such an environment for CPUs. A server takes about a minute to come up.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from slmtrace.model.events import EventKind
from slmtrace.model.taxonomy import Cause, Phase, Stage
from tools.vllm_requests import Run, check, record

pytestmark = [pytest.mark.vllm, pytest.mark.bpf, pytest.mark.root, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return record(tmp_path_factory.mktemp("vllm") / "sequential", n_requests=10, n_prompt_tokens=22)


@pytest.fixture(scope="module")
def concurrent(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("vllm") / "concurrent"
    return record(path, n_requests=16, n_prompt_tokens=512, concurrency=8)


def test_every_sequential_request_is_followed_through_every_process(sequential: Run) -> None:
    assert [one for one in check(sequential) if not one.is_passed] == []


def test_every_concurrent_request_is_followed_through_every_process(concurrent: Run) -> None:
    assert [one for one in check(concurrent) if not one.is_passed] == []


def test_requests_that_came_together_waited_in_the_queue(concurrent: Run) -> None:
    queue_ns = [
        sum(share.ns for share in report.causes if share.cause is Cause.ENGINE_QUEUE) for report in concurrent.requests
    ]

    assert max(queue_ns) > statistics.median(report.total_ns for report in concurrent.requests) / 4


def test_the_load_is_explained_process_by_process(sequential: Run) -> None:
    load_report = sequential.reports[0]

    assert load_report.phases[Phase.UNATTRIBUTED] <= 0.02 * load_report.total_ns
    assert load_report.segments is not None
    assert len({sequential.trace.tracks[track].pid for track in load_report.segments.track.tolist()}) >= 4
    stages = {share.stage for share in load_report.stages}
    assert {Stage.IMPORT, Stage.CONFIG, Stage.PROCESS_SPAWN, Stage.WEIGHTS, Stage.KV_CACHE} <= stages


def test_no_hook_is_missed_and_none_fails(sequential: Run) -> None:
    events = sequential.trace.events
    notes = [sequential.trace.strings[int(name)] for name in events.name[events.kind == EventKind.NOTE]]

    assert [note for note in notes if note.startswith(("hook_miss", "hook_error"))] == []


def test_a_server_that_cannot_start_is_told_with_its_errors(tmp_path: Path) -> None:
    model = tmp_path / "model"
    made = subprocess.run([sys.executable, "-m", "slmtrace", "model", "tiny", str(model)], check=False)
    assert made.returncode == 0
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    command = [sys.executable, "-m", "slmtrace", "run", "--engine", "vllm", "--model", str(model), "--requests", "1"]

    done = subprocess.run([*command, "-o", str(tmp_path / "c")], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert re.search(r"vllm serve ended with exit code \d+ while loading:", done.stderr)
    assert (tmp_path / "c" / "breakdown.json").is_file()
