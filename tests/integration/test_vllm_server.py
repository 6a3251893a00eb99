"""A real vLLM server, asked by the built-in client: every request is followed from send to receive.

    PATH=VENV/bin:$PATH VLLM_CPU_KVCACHE_SPACE=1 pytest tests/integration/test_vllm_server.py

tools/vllm_cpu VENV makes such an environment for CPUs. A server takes about a minute to come up.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from slmtrace.analysis import load
from slmtrace.attribute.attribution import attribute
from slmtrace.capture.directory import Capture
from slmtrace.model.events import EventKind
from slmtrace.model.report import WindowReport
from slmtrace.model.taxonomy import Cause, Phase, Stage, WindowKind
from slmtrace.model.trace import Trace
from slmtrace.model.windows import find_windows

pytestmark = [pytest.mark.vllm, pytest.mark.bpf, pytest.mark.root, pytest.mark.timeout(1200)]

# A request's stages in the order in which it meets them; prepare and prefill wait for what the step needs in between.
ORDER = (Stage.RECEIVE, Stage.TOKENIZE, Stage.SUBMIT, Stage.SCHEDULE, Stage.PREFILL, Stage.DETOKENIZE, Stage.DELIVER)


@dataclass(frozen=True)
class Run:
    """A recorded run, explained, and what its client printed."""

    trace: Trace
    reports: list[WindowReport]
    client_ms: dict[str, float]

    @property
    def requests(self) -> list[WindowReport]:
        return [report for report in self.reports if report.kind is WindowKind.TTFT]


def record(path: Path, *options: str) -> Run:
    command = [sys.executable, "-m", "slmtrace", "run", "--engine", "vllm", "-o", str(path), *options]
    # The cache holds the probe model and vLLM's compiled graphs; tests keep their own cache of ours.
    environ = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    trace = load(Capture.open(path))
    printed = re.findall(r"request (\S+): first data after ([\d.]+) ms", done.stderr)
    return Run(trace, attribute(trace, find_windows(trace)), {name: float(ms) for name, ms in printed})


@pytest.fixture(scope="module")
def sequential(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return record(tmp_path_factory.mktemp("vllm") / "sequential", "--requests", "10", "--prompt-tokens", "22")


@pytest.fixture(scope="module")
def concurrent(tmp_path_factory: pytest.TempPathFactory) -> Run:
    path = tmp_path_factory.mktemp("vllm") / "concurrent"
    return record(path, "--requests", "16", "--concurrency", "8", "--prompt-tokens", "512")


def processes_of(run: Run, report: WindowReport) -> set[int]:
    assert report.segments is not None
    return {run.trace.tracks[track].pid for track in set(report.segments.track.tolist())}


def assert_followed(run: Run) -> None:
    """Check what holds for every request, alone or among others."""
    assert len(run.requests) == len(run.client_ms)
    unattributed = [report.phases[Phase.UNATTRIBUTED] / report.total_ns for report in run.requests]
    assert statistics.median(unattributed) <= 0.03
    assert max(unattributed) <= 0.06
    for report in run.requests:
        assert abs(report.total_ns / 1e6 - run.client_ms[report.request_id]) < 0.1
        assert sum(report.phases.values()) == report.total_ns
        assert len(processes_of(run, report)) == 4  # client, API server, engine core, worker


def test_every_sequential_request_is_followed_through_every_process(sequential: Run) -> None:
    assert_followed(sequential)


def test_every_concurrent_request_is_followed_through_every_process(concurrent: Run) -> None:
    assert_followed(concurrent)


def test_the_stages_of_every_request_come_in_order(sequential: Run, concurrent: Run) -> None:
    for report in sequential.requests[1:] + concurrent.requests:
        assert report.segments is not None
        stages = report.segments.stage.tolist()
        # A short stage may have run beside the path, while another thread held the interpreter's lock.
        first = [stages.index(stage) for stage in ORDER if stage in stages]
        assert first == sorted(first), report.request_id
        assert {Stage.SUBMIT, Stage.PREFILL, Stage.DELIVER} <= set(stages)


def test_requests_that_came_together_waited_in_the_queue(concurrent: Run) -> None:
    queue_ns = [
        sum(share.ns for share in report.causes if share.cause is Cause.ENGINE_QUEUE) for report in concurrent.requests
    ]

    assert max(queue_ns) > statistics.median(report.total_ns for report in concurrent.requests) / 4


def test_the_load_is_explained_process_by_process(sequential: Run) -> None:
    load_report = sequential.reports[0]

    assert load_report.phases[Phase.UNATTRIBUTED] <= 0.02 * load_report.total_ns
    assert len(processes_of(sequential, load_report)) >= 4
    stages = {share.stage for share in load_report.stages}
    assert {Stage.IMPORT, Stage.CONFIG, Stage.PROCESS_SPAWN, Stage.WEIGHTS, Stage.KV_CACHE} <= stages


def test_no_hook_is_missed_and_none_fails(sequential: Run) -> None:
    events = sequential.trace.events
    notes = [sequential.trace.strings[int(name)] for name in events.name[events.kind == EventKind.NOTE]]

    assert [note for note in notes if note.startswith(("hook_miss", "hook_error"))] == []


def test_a_server_that_cannot_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    model = tmp_path / "model"
    made = subprocess.run([sys.executable, "-m", "slmtrace", "model", "tiny", str(model)], check=False)
    assert made.returncode == 0
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    command = [sys.executable, "-m", "slmtrace", "run", "--engine", "vllm", "--model", str(model), "--requests", "1"]

    done = subprocess.run([*command, "-o", str(tmp_path / "c")], capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert re.search(r"vllm serve ended with exit code \d+ while loading; its last words:", done.stderr)
    assert (tmp_path / "c" / "breakdown.json").is_file()
