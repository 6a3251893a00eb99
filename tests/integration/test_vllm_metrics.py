"""`slmtrace record -- vllm serve` with a client outside, cross-checked with what vLLM says of itself."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from slmtrace.analysis import load
from slmtrace.attribute.attribution import attribute
from slmtrace.capture.directory import Capture
from slmtrace.engines.client import Server, ask_all, is_healthy
from slmtrace.engines.models import find_model
from slmtrace.model.report import WindowReport
from slmtrace.model.taxonomy import Cause, WindowKind
from slmtrace.model.trace import Trace
from slmtrace.model.windows import find_windows

pytestmark = [pytest.mark.vllm, pytest.mark.bpf, pytest.mark.root, pytest.mark.timeout(1200)]

N_REQUESTS = 6
QUEUE = "vllm:request_queue_time_seconds_sum"
TTFT = "vllm:time_to_first_token_seconds_sum"


@dataclass(frozen=True)
class Served:
    """A recorded server: its requests, explained, and vLLM's own figures for each, in ns."""

    trace: Trace
    requests: dict[str, WindowReport]
    queue_ns: dict[str, float]
    ttft_ns: dict[str, float]
    exit_code: int


def read_metrics(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: 1e9 * sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))
        for name in (QUEUE, TTFT)
    }


def ask(port: int, figures: dict[str, dict[str, float]]) -> None:
    """Ask one by one, then a short request behind a long one; note what vLLM's sums grew by."""
    server = Server(port, "model", 4)
    before = read_metrics(port)
    for number in range(N_REQUESTS - 2):
        ask_all(server, [f"request {number} has a text of its own"], 1, f"single{number}")
        after = read_metrics(port)
        for name in (QUEUE, TTFT):
            figures[name][f"single{number}-0"] = after[name] - before[name]
        before = after
    long = threading.Thread(target=ask_all, args=(Server(port, "model", 80), ["long " * 300], 1, "long"))
    long.start()
    time.sleep(0.15)
    ask_all(server, ["a short one"], 1, "short")
    long.join()
    figures[QUEUE]["pair"] = read_metrics(port)[QUEUE] - before[QUEUE]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("vllm") / "served"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    command = [
        *(sys.executable, "-m", "slmtrace", "record", "--until", f"{N_REQUESTS}-requests", "-o", str(path), "--"),
        *("vllm", "serve", str(find_model("tiny").path), "--port", str(port), "--served-model-name", "model"),
        *("--max-num-seqs", "1"),
    ]
    environ = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    recorder = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not is_healthy(port):
            assert recorder.poll() is None
            time.sleep(0.2)
        figures: dict[str, dict[str, float]] = {QUEUE: {}, TTFT: {}}
        ask(port, figures)
        exit_code = recorder.wait(300)
    finally:
        recorder.kill()
    trace = load(Capture.open(path))
    reports = [r for r in attribute(trace, find_windows(trace)) if r.kind is WindowKind.TTFT]
    yield Served(trace, {r.request_id: r for r in reports}, figures[QUEUE], figures[TTFT], exit_code)


def first_start_ns(trace: Trace, name: str, request: str) -> int:
    events = trace.events
    is_it = (events.name == trace.strings.intern(name)) & (events.request == trace.strings.intern(request))
    return int(events.start_ns[np.flatnonzero(is_it)].min())


def test_until_ends_the_server_and_every_request_has_its_window(served: Served) -> None:
    assert served.exit_code == 0
    assert len(served.requests) == N_REQUESTS


def test_vllms_ttft_and_the_two_named_differences_are_ours(served: Served) -> None:
    for request, theirs_ns in served.ttft_ns.items():
        ours = served.requests[request]
        before_arrival_ns = first_start_ns(served.trace, "BaseRenderer.render_cmpl_async", request) - ours.start_ns
        after_output_ns = ours.end_ns - first_start_ns(served.trace, "OutputProcessor.process_outputs", request)

        assert abs(theirs_ns + before_arrival_ns + after_output_ns - ours.total_ns) < 1e6, request


def queue_ns(report: WindowReport) -> int:
    return sum(share.ns for share in report.causes if share.cause is Cause.ENGINE_QUEUE)


def input_queue_ns(trace: Trace, request: str) -> int:
    """Return how long a request waited for the end of a step before the scheduler knew of it."""
    events = trace.events
    is_wait = (events.name == trace.strings.intern("input queue")) & (events.request == trace.strings.intern(request))
    return int((events.end_ns - events.start_ns)[is_wait].sum())


def test_a_request_behind_a_long_one_waited_as_long_as_vllm_says(served: Served) -> None:
    short, long = served.requests["short-0"], served.requests["long-0"]

    # vLLM counts from its scheduler's queue on, and leaves out what a request waits before.
    theirs_ns = served.queue_ns["pair"] + input_queue_ns(served.trace, "short-0")
    assert queue_ns(short) + queue_ns(long) == pytest.approx(theirs_ns, rel=0.02)
    assert queue_ns(short) > short.total_ns / 2
