"""`slmtrace attach` to a process that uses CUDA: calls of a fake driver, probed in the running process."""

from __future__ import annotations

import ctypes
import errno
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from slmtrace.decode import ebpf
from slmtrace.model.events import EventKind
from slmtrace.probes.collector import kernel
from slmtrace.probes.collector.driver import find_driver
from tests.integration.test_attach import attach
from tests.integration.test_ebpf_collector import start_collector_with_answer
from tests.support.cuda import build_fake_driver
from tests.support.logs import make_context, new_capture, only_log
from tests.support.targets import Target

pytestmark = [pytest.mark.root, pytest.mark.bpf]

# What a call takes is its argument, in us; the second half of a module's load is an allocation.
SERVER = """
import ctypes, http.server, sys
driver = ctypes.CDLL(sys.argv[1])

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        driver.cuModuleLoadData(40_000)
        driver.cuMemHostAlloc(15_000)
        driver.cuLaunchKernel(5_000)
        driver.cuStreamSynchronize(30_000)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *arguments):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
N_CALLS = 211
CALLER = f"""
import ctypes, sys
driver = ctypes.CDLL(sys.argv[1])
for _ in range({N_CALLS}):
    driver.cuMemHostAlloc(0)
    driver.cuModuleLoadData(200)
    driver.cuLaunchKernel(0)
"""


def test_the_driver_s_calls_explain_the_requests_of_a_server_that_runs_already(tmp_path: Path) -> None:
    library = build_fake_driver(tmp_path)
    output = tmp_path / "capture"
    command = [sys.executable, "-c", SERVER, str(library)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        client = http.client.HTTPConnection("127.0.0.1", int(server.stdout.readline()), timeout=30)

        recording = attach(server.pid, output)
        client.request("POST", "/", body=b"x")
        client.getresponse().read()
        recording.send_signal(signal.SIGINT)
        _, errors = recording.communicate(timeout=60)
        server.kill()

    assert recording.returncode == 0, errors
    breakdown = json.loads((output / "breakdown.json").read_text())
    (window,) = breakdown["windows"]
    causes = {f"{each['phase']}.{each['cause']}": each for each in window["causes"]}
    planned_ms = {"kernel_warmup.module_load": 20, "allocator.cuda_malloc": 20, "dma.pin_memory": 15}
    # Others may have had the CPU meanwhile.
    queued_ns = causes.get("scheduler.run_queue", {"ns": 0})["ns"]
    for name, milliseconds in {**planned_ms, "compute.gpu_kernel": 30}.items():
        assert milliseconds * 0.98e6 - queued_ns <= causes[name]["ns"] <= milliseconds * 1.1e6, name
    functions = {row["name"] for each in causes.values() for row in each["detail"].get("functions", [])}
    assert functions >= {"cuModuleLoadData", "cuMemAlloc", "cuMemHostAlloc", "cuStreamSynchronize"}
    assert "cuLaunchKernel" not in functions
    sources = {source["name"]: source for source in breakdown["sources"]}
    assert sources["cuda"]["status"] == "partial"
    assert "calls of the CUDA driver alone" in sources["cuda"]["reason"]
    assert "has no cuInit" in sources["ebpf"]["reason"]


def test_each_call_of_the_tree_is_one_event_and_calls_of_others_are_none(tmp_path: Path) -> None:
    library = build_fake_driver(tmp_path)
    capture = new_capture(tmp_path)
    collector, answer = start_collector_with_answer(capture, cuda_libraries=[str(library)])
    target, stranger = (Target(CALLER, str(library)) for _ in range(2))
    collector.ask(f"enroll {target.pid}", 10)

    target.start(), stranger.start()
    statuses = target.wait().status, stranger.wait().status
    books = collector.ask("stop", 30)
    collector.close(10)

    assert statuses == (0, 0)
    assert answer["groups"]["cuda"]["attached"] == [str(library)]
    assert "CAP_SYS_ADMIN" not in answer["capabilities"]
    context = make_context()
    fragment = ebpf.decode(only_log(capture), context)
    assert books is not None and fragment.decoded == books["written"] == books["seen"]
    calls = fragment.events.take(fragment.events.kind == EventKind.CUDA_API)
    names = np.array([context.strings[name] for name in calls.name.tolist()])
    assert Counter(names.tolist()) == dict.fromkeys(("cuMemHostAlloc", "cuModuleLoadData", "cuMemAlloc"), N_CALLS)
    assert {context.tracks[track].tid for track in calls.track.tolist()} == {target.pid}
    dur_ns = calls.end_ns - calls.start_ns
    assert dur_ns[names == "cuModuleLoadData"].min() >= 200_000
    assert np.median(dur_ns[names == "cuMemHostAlloc"]) < 20_000


def test_an_ioctl_of_the_gpu_s_device_is_known_by_it(tmp_path: Path) -> None:
    library = build_fake_driver(tmp_path)
    device = Path("/dev/nvidia-of-a-test")
    # A descriptor that the interpreter has not had for its own files before.
    program = """
import fcntl, os, sys, time
first = os.open(sys.argv[1], 0)
os.dup2(first, 99)
os.close(first)
fcntl.ioctl(99, 0x541B, b'1234')
time.sleep(9)
"""
    capture = new_capture(tmp_path)
    collector, _ = start_collector_with_answer(capture, cuda_libraries=[str(library)], threshold_ns=0)
    device.touch()
    try:
        target = Target(program, str(device))
        collector.ask(f"enroll {target.pid}", 10)
        target.start()
        time.sleep(0.5)
        collector.ask("stop", 30)
        os.kill(target.pid, signal.SIGKILL)
        target.wait()
    finally:
        device.unlink()
        collector.close(10)

    context = make_context()
    events = ebpf.decode(only_log(capture), context).events
    is_of_device = events.file == context.strings.intern(str(device))
    assert [context.strings[name] for name in events.name[is_of_device].tolist()] == ["ioctl"]


def test_a_kernel_that_attaches_no_uprobes_at_once_attaches_them_one_by_one(tmp_path: Path) -> None:
    library = build_fake_driver(tmp_path)
    driver = ctypes.CDLL(str(library))
    functions = find_driver([str(library)]).functions
    places = {number: function.offset for number, function in enumerate(functions)}
    program = kernel.load_program("try", kernel.KPROBE, kernel._DO_NOTHING)

    def load(attach_type: int) -> int:
        if attach_type:
            raise OSError(errno.EINVAL, "before Linux 6.6")
        return program

    statistics = kernel.enable_statistics()
    links = kernel.attach_uprobes(str(library), places, False, load)
    for _ in range(3):
        driver.cuModuleLoadData(0)
    n_runs = int(kernel.describe(program)["run_cnt"])
    for descriptor in (*links, program, statistics):
        os.close(descriptor)

    assert len(links) == len(functions) == 4
    assert n_runs == 6  # it calls another one


def test_a_driver_that_cannot_be_read_costs_no_recording(tmp_path: Path) -> None:
    library = tmp_path / "libcuda.so.1"
    library.write_bytes(b"\x7fELF\x02" + bytes(100))

    collector, answer = start_collector_with_answer(new_capture(tmp_path), cuda_libraries=[str(library)])
    books = collector.ask("stop", 30)
    collector.close(10)

    assert answer["groups"]["cuda"]["status"] == "unavailable"
    assert str(library) in answer["groups"]["cuda"]["reason"]
    assert books is not None and books["event"] == "stopped"
