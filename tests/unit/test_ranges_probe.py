"""The ranges probe: what it gives the target, and the books it keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import HEADER_BYTES, SLOT
from slmtrace.instrument import environment
from slmtrace.probes.base import RecordOptions
from slmtrace.probes.ranges import RangesProbe
from tests.support.ranges import read_raw

# A target that records 5 names and 20 ranges, and prints when it has.
TARGET = """
import sys
from _slmtrace.instrument import constants as c
from _slmtrace.instrument.recorder import recorder
for n in range(20):
    recorder.write(c.RANGE, recorder.intern(f"weights|{n % 5}"), n, n + 1)
print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def started(tmp_path: Path) -> tuple[RangesProbe, Capture]:
    capture = Capture.create(tmp_path / "capture")
    probe = RangesProbe()
    probe.start(capture, RecordOptions())
    return probe, capture


def start_target(probe: RangesProbe) -> subprocess.Popen[str]:
    environ = {**os.environ, **probe.environ(dict(os.environ))}
    target = subprocess.Popen(
        [sys.executable, "-c", TARGET], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert target.stdout is not None
    assert target.stdout.readline() == "done\n"
    return target


def ranges(capture: Capture) -> int:
    return sum(row.start_ns < 20 for row in read_raw(capture.raw))


def test_it_is_available_where_the_instrument_loads_and_tells_what_a_range_costs() -> None:
    availability = RangesProbe().check()

    assert availability.status == "ok"
    assert 0 < availability.detail["ns_per_range"] < 1_000_000


def test_an_instrument_that_does_not_load_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmtrace.probes.ranges._SELFTEST", "import a_module_that_is_missing")

    availability = RangesProbe().check()

    assert availability.status == "unavailable"
    assert "a_module_that_is_missing" in availability.reason
    assert "SLMTRACE_DEBUG=1" in availability.remedy


def test_an_inherited_pythonpath_is_kept_behind_ours(started: tuple[RangesProbe, Capture]) -> None:
    probe, capture = started

    changes = probe.environ({"PYTHONPATH": "/opt/lib:/srv/lib"})

    assert changes["PYTHONPATH"].split(":") == [environment.site_dir(), "/opt/lib", "/srv/lib"]
    assert changes[environment.RAW] == str(capture.raw)


def test_a_finished_log_is_counted_and_cut_to_what_is_used(started: tuple[RangesProbe, Capture]) -> None:
    probe, capture = started

    target = start_target(probe)
    target.communicate("")
    result = probe.stop()

    (path,) = capture.raw.glob("ranges.*.bin")
    n_records = (path.stat().st_size - HEADER_BYTES) // SLOT.record_bytes()
    assert result.status == "ok"
    assert (result.seen, result.written, result.lost) == (n_records, n_records, {})
    assert n_records >= 25
    assert ranges(capture) == 20


def test_the_log_of_a_living_process_is_not_cut_under_it(started: tuple[RangesProbe, Capture]) -> None:
    probe, capture = started

    target = start_target(probe)
    (path,) = capture.raw.glob("ranges.*.bin")
    before = path.stat().st_size
    result = probe.stop()
    after = path.stat().st_size
    target.communicate("")

    assert (after, target.returncode) == (before, 0)
    assert result.written >= 25


def test_a_target_that_never_loaded_the_instrument_is_told(started: tuple[RangesProbe, Capture]) -> None:
    probe, _ = started

    result = probe.stop()

    assert result.status == "partial"
    assert "no process of the target loaded the instrument" in result.reason


def test_a_damaged_log_does_not_stop_the_books(started: tuple[RangesProbe, Capture]) -> None:
    probe, capture = started
    (capture.raw / "ranges.1.1.bin").write_bytes(b"not a log")

    target = start_target(probe)
    target.communicate("")

    assert probe.stop().written >= 25


def test_stopping_a_probe_that_never_started_is_no_error() -> None:
    assert RangesProbe().stop().status == "unavailable"


def test_what_another_probe_decided_of_nvtx_stays() -> None:
    environ = environment.injected({environment.NVTX: "off"}, "/raw")

    assert environ[environment.NVTX] == "off"
