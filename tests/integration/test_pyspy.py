"""py-spy beside real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from slmtrace.align.clocks import fit_clock_map
from slmtrace.decode import pyspy
from slmtrace.probes.base import RecordOptions
from slmtrace.probes.pyspy import PySpyProbe, find_pyspy
from slmtrace.probes.sampler import Sampler
from tests.support.logs import make_context, new_capture, only_log

# Two named functions, each for a while that the program itself states, then an orderly end with an exit code.
TARGET = """
import sys, time
def spin(seconds):
    start = time.monotonic_ns()
    while time.monotonic_ns() - start < seconds * 1e9:
        pass
    return start, time.monotonic_ns()
def first():
    return spin(0.7)
def second():
    return spin(0.4)
time.sleep(0.4)
print(*first(), *second(), flush=True)
sys.exit(41)
"""


@pytest.fixture
def probe() -> PySpyProbe:
    probe = PySpyProbe()
    availability = probe.check()
    if not availability.is_available:
        pytest.skip(f"pyspy: {availability.reason}")
    return probe


def test_samples_fall_into_the_functions_that_ran(tmp_path: Path, probe: PySpyProbe) -> None:
    capture = new_capture(tmp_path)
    script = tmp_path / "target.py"
    script.write_text(TARGET)
    probe.start(capture, RecordOptions(sample_hz=100))
    target = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    probe.enroll(target.pid)
    while target.poll() is None:
        probe.poll()
        time.sleep(0.02)

    result = probe.stop()

    assert target.returncode == 41
    assert target.stdout is not None
    first_start, first_end, second_start, second_end = map(int, target.stdout.read().split())
    context = make_context()
    fragment = pyspy.decode(only_log(capture), context)
    assert fragment.decoded == result.written
    assert fragment.clock_reads is not None
    clock_map = fit_clock_map(fragment.clock_reads[:, 1:])
    # A sample is up to one period late, and seen functions last until the next one.
    slack_ns = clock_map.residual_ns + 60_000_000
    ts_ns = clock_map.apply(fragment.events.start_ns)
    inside: Counter[str] = Counter()
    for ts, name in zip(ts_ns.tolist(), fragment.events.name.tolist(), strict=True):
        for function, start, end in (("first", first_start, first_end), ("second", second_start, second_end)):
            if f"{function} (target.py" in context.strings[name]:
                assert start - slack_ns <= ts <= end + slack_ns
                inside[function] += 1
    assert inside["first"] > 20
    assert inside["second"] > 10
    assert clock_map.residual_ns < 100_000_000
    assert result.overhead["cpu_ns"] > 0
    assert list((capture.path / "cache").iterdir()) == []


def test_a_target_that_is_no_python_program_is_left_alone_and_said_so(tmp_path: Path, probe: PySpyProbe) -> None:
    probe.start(new_capture(tmp_path), RecordOptions())
    target = subprocess.Popen(["/bin/sleep", "0.5"])
    probe.enroll(target.pid)
    while target.poll() is None:
        probe.poll()
        time.sleep(0.02)

    result = probe.stop()

    assert target.returncode == 0
    assert result.status == "partial"
    assert result.written == 0
    assert result.reason


def test_py_spy_ends_when_the_recorder_is_killed(tmp_path: Path, probe: PySpyProbe) -> None:
    target = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    recorder_code = (
        "import sys, time; from pathlib import Path; from slmtrace.probes.sampler import Sampler;"
        "s = Sampler(sys.argv[1], int(sys.argv[2]), 20, Path(sys.argv[3]));"
        "print(s._process.pid, flush=True); time.sleep(30)"
    )
    command = [sys.executable, "-c", recorder_code, str(find_pyspy()), str(target.pid), str(tmp_path / "out.json")]
    recorder = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    assert recorder.stdout is not None
    pyspy_pid = int(recorder.stdout.readline())
    time.sleep(0.5)

    recorder.send_signal(signal.SIGKILL)
    recorder.wait()
    is_gone = wait_until_gone(pyspy_pid)
    target_lives = target.poll() is None
    target.kill()
    target.wait()

    assert is_gone
    assert target_lives


def test_stopping_twice_and_stopping_what_ended_are_harmless(tmp_path: Path, probe: PySpyProbe) -> None:
    target = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])
    sampler = Sampler(str(find_pyspy()), target.pid, 20, tmp_path / "out.json")
    target.wait()

    sampler.stop()
    sampler.stop()

    assert not sampler.is_running()


def wait_until_gone(pid: int, timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
