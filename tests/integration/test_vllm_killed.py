"""A vLLM process is killed in the middle of a request: the capture is readable up to the last moment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from slmtrace.analysis import load
from slmtrace.attribute.attribution import attribute
from slmtrace.capture.directory import Capture
from slmtrace.engines.client import Server, ask_all, is_healthy
from slmtrace.engines.models import find_model
from slmtrace.model.taxonomy import WindowKind
from slmtrace.model.windows import find_windows

pytestmark = [pytest.mark.vllm, pytest.mark.bpf, pytest.mark.root, pytest.mark.timeout(1200)]

LOST_AT_MOST_NS = 250_000_000


def find_process(root_pid: int, title: str) -> int:
    """Return the process of the tree that vLLM has given this title; comm keeps 15 characters."""
    tree = psutil.Process(root_pid).children(recursive=True)
    return next(process.pid for process in tree if process.name().startswith(title[:15]))


@pytest.mark.parametrize("title", ["VLLM::EngineCore", "VLLM::Worker"])
def test_a_killed_process_leaves_a_readable_capture_up_to_its_end(title: str, tmp_path: Path) -> None:
    path = tmp_path / "capture"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    command = [sys.executable, "-m", "slmtrace", "record", "-o", str(path), "--"]
    command += ["vllm", "serve", str(find_model("tiny").path), "--port", str(port), "--served-model-name", "model"]
    recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not is_healthy(port):
            assert recorder.poll() is None
            time.sleep(0.2)
        asker = threading.Thread(target=ask_all, args=(Server(port, "model", 1500), ["a long answer"], 1, "cut"))
        asker.start()
        time.sleep(1.0)
        pid = find_process(recorder.pid, title)
        killed_ns = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        asker.join(120)
        # A server that does not notice is told to end.
        time.sleep(2.0)
        recorder.terminate()
        recorder.wait(300)
    finally:
        recorder.kill()

    trace = load(Capture.open(path))

    threads = [row for row in range(len(trace.tracks)) if trace.tracks[row].pid == pid]
    last_ns = trace.sched.run_end_ns[np.isin(trace.sched.run_track, threads)].max()
    assert killed_ns - LOST_AT_MOST_NS < last_ns
    of_process = np.isin(trace.events.track, threads)
    assert killed_ns - LOST_AT_MOST_NS - 1_000_000_000 < trace.events.end_ns[of_process].max()
    reports = attribute(trace, find_windows(trace))
    assert [report.kind for report in reports] == [WindowKind.LOAD, WindowKind.TTFT]
    assert (path / "trace.pftrace").is_file()
