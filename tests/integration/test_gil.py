"""Waits for Python's interpreter lock, told from waits for a program's own locks, in real programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slmtrace.analysis import load
from slmtrace.attribute.attribution import attribute
from slmtrace.capture.directory import Capture
from slmtrace.model.report import WindowReport
from slmtrace.model.taxonomy import Cause
from slmtrace.model.windows import find_windows

pytestmark = [pytest.mark.root, pytest.mark.bpf]

N_ROUNDS = 20
SWITCH_INTERVAL_NS = 20_000_000

# Whoever wants the interpreter's lock back from a thread that never gives it up waits out the switch interval.
GIL = f"""
import os, sys, threading, time
def spin():
    while True: pass
sys.setswitchinterval({SWITCH_INTERVAL_NS / 1e9})
threading.Thread(target=spin, daemon=True).start()
for _ in range({N_ROUNDS}): time.sleep(0.0001)
os._exit(0)
"""
# The holder of the lock sleeps, so that the interpreter's lock is free.
LOCK = f"""
import threading, time
lock = threading.Lock()
def hold():
    for _ in range({N_ROUNDS}):
        with lock: time.sleep({SWITCH_INTERVAL_NS / 1e9})
        time.sleep(0.002)
holder = threading.Thread(target=hold); holder.start()
for _ in range({N_ROUNDS}):
    time.sleep(0.001)
    with lock: pass
holder.join()
"""


def record(program: str, path: Path) -> WindowReport:
    command = [sys.executable, "-m", "slmtrace", "record", "--probes", "ebpf,ranges", "-o", str(path), "--"]
    done = subprocess.run([*command, sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trace = load(Capture.open(path))
    return attribute(trace, find_windows(trace))[0]


def gil_wait_ns(report: WindowReport) -> int:
    return sum(share.ns for share in report.causes if share.cause is Cause.GIL_WAIT)


def test_each_round_against_a_spinning_thread_waits_out_the_switch_interval(tmp_path: Path) -> None:
    report = record(GIL, tmp_path / "capture")

    # On a busy machine a round may find the spinning thread without a CPU: then nobody asks for the lock in vain.
    assert 0.5 * N_ROUNDS * SWITCH_INTERVAL_NS < gil_wait_ns(report) < report.total_ns


def test_a_programs_own_lock_is_no_wait_for_the_interpreter(tmp_path: Path) -> None:
    report = record(LOCK, tmp_path / "capture")

    assert gil_wait_ns(report) < 0.1 * N_ROUNDS * SWITCH_INTERVAL_NS
    assert (
        sum(share.ns for share in report.causes if share.cause is Cause.LOCK_WAIT) > N_ROUNDS * SWITCH_INTERVAL_NS / 2
    )
