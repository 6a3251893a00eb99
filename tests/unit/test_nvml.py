from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from slmtrace.decode import nvml
from slmtrace.probes.base import RecordOptions
from slmtrace.probes.gpu_state import read_gpus
from slmtrace.probes.nvml import NvmlProbe
from tests.support.logs import make_context, new_capture, only_log


class FakeError(Exception):
    pass


def make_pynvml(n_gpus: int = 2) -> Any:
    """Make a driver of two GPUs: power in mW is 300,000 and the GPU's index; nobody knows PCIe throughput."""
    module: Any = ModuleType("pynvml")
    module.NVMLError = FakeError
    module.n_calls = 0
    module.is_open = 0
    for number, name in enumerate(
        ("CLOCK_SM", "CLOCK_MEM", "TEMPERATURE_GPU", "PCIE_UTIL_TX_BYTES", "PCIE_UTIL_RX_BYTES")
    ):
        setattr(module, f"NVML_{name}", number)

    def not_supported(*_: object) -> int:
        module.n_calls += 1
        raise FakeError("Not Supported")

    module.nvmlInit = lambda: setattr(module, "is_open", module.is_open + 1)
    module.nvmlShutdown = lambda: setattr(module, "is_open", module.is_open - 1)
    module.nvmlDeviceGetCount = lambda: n_gpus
    module.nvmlDeviceGetHandleByIndex = lambda index: index
    module.nvmlSystemGetDriverVersion = lambda: b"580.1"
    module.nvmlDeviceGetName = lambda gpu: f"Fake {gpu}"
    module.nvmlDeviceGetClockInfo = lambda gpu, clock: 1000 + clock
    module.nvmlDeviceGetPowerUsage = lambda gpu: 300_000 + gpu
    module.nvmlDeviceGetUtilizationRates = lambda gpu: SimpleNamespace(gpu=41, memory=7)
    module.nvmlDeviceGetMemoryInfo = lambda gpu: SimpleNamespace(used=1 << 30, total=1 << 37)
    module.nvmlDeviceGetTemperature = lambda gpu, sensor: 37
    module.nvmlDeviceGetPcieThroughput = not_supported
    module.nvmlDeviceGetPerformanceState = lambda gpu: 0
    return module


@pytest.fixture
def pynvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = make_pynvml()
    monkeypatch.setitem(sys.modules, "pynvml", module)
    return module


def test_each_gpu_has_its_counters_and_what_it_lacks_is_asked_once(tmp_path: Path, pynvml: Any) -> None:
    capture = new_capture(tmp_path)
    probe = NvmlProbe()
    probe.start(capture, RecordOptions(counter_hz=100))
    deadline = time.monotonic() + 10
    while probe._n_reads < 3 and time.monotonic() < deadline:
        time.sleep(0.005)

    result = probe.stop()

    fragment = nvml.decode(only_log(capture), make_context())
    values = {(series.name, series.unit): set(series.value.tolist()) for series in fragment.counters}
    assert values["gpu1 power", "mW"] == {300_001}
    assert values["gpu0 sm_clock", "MHz"] == {1_000}
    assert values["gpu0 memory_used", "bytes"] == {1 << 30}
    assert values["gpu0 gpu_utilization", "%"] == {41}
    assert not [name for name, _ in values if "pcie" in name]
    assert sorted(result.facts["missing_queries"]) == sorted(
        f"gpu{gpu} {name}" for gpu in (0, 1) for name in ("pcie_tx kB/s", "pcie_rx kB/s", "throttle_reasons bits")
    )
    assert pynvml.n_calls == 4
    assert (result.status, fragment.decoded) == ("ok", result.written)
    assert pynvml.is_open == 0


def test_a_driver_that_fails_ends_the_probe_and_not_the_recording(tmp_path: Path, pynvml: Any) -> None:
    def fall_off(_: object) -> int:
        raise RuntimeError("GPU is lost")

    pynvml.nvmlDeviceGetPowerUsage = fall_off
    probe = NvmlProbe()
    probe.start(new_capture(tmp_path), RecordOptions())

    result = probe.stop()

    assert result.status == "partial"
    assert "GPU is lost" in result.reason


def test_the_check_counts_gpus_and_leaves_the_driver_closed(pynvml: Any) -> None:
    availability = NvmlProbe().check()

    assert (availability.status, availability.detail) == ("ok", {"gpus": 2, "driver": "580.1"})
    assert pynvml.is_open == 0


def test_no_driver_is_told_with_its_remedy(pynvml: Any) -> None:
    def no_library() -> None:
        raise FakeError("NVML Shared Library Not Found")

    pynvml.nvmlInit = no_library

    availability = NvmlProbe().check()

    assert availability.status == "unavailable"
    assert "no NVIDIA driver" in availability.reason
    assert "libnvidia-ml" in availability.remedy


def test_a_driver_without_gpus_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", make_pynvml(n_gpus=0))

    assert NvmlProbe().check().status == "unavailable"


def test_the_certificate_has_each_gpu_and_null_for_what_it_does_not_know(pynvml: Any) -> None:
    state = read_gpus()

    assert state["driver"] == "580.1"
    assert [gpu["name"] for gpu in state["gpus"]] == ["Fake 0", "Fake 1"]
    assert state["gpus"][0]["sm_clock_mhz"] == 1_000
    assert state["gpus"][0]["pcie_width"] is None
    assert pynvml.is_open == 0
