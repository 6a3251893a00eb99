"""The GPU part of the state certificate, by NVML: clocks, power state and PCIe link of each GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_Query = Callable[[Any, Any], Any]  # (pynvml, device) -> a JSON value

# No serial numbers, UUIDs or bus addresses: they name the machine.
_QUERIES: dict[str, _Query] = {
    "name": lambda nvml, gpu: _text(nvml.nvmlDeviceGetName(gpu)),
    "memory_total_bytes": lambda nvml, gpu: int(nvml.nvmlDeviceGetMemoryInfo(gpu).total),
    "memory_used_bytes": lambda nvml, gpu: int(nvml.nvmlDeviceGetMemoryInfo(gpu).used),
    "sm_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "sm_clock_max_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "memory_clock_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "memory_clock_max_mhz": lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "performance_state": lambda nvml, gpu: nvml.nvmlDeviceGetPerformanceState(gpu),
    "throttle_reasons": lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
    "persistence_mode": lambda nvml, gpu: bool(nvml.nvmlDeviceGetPersistenceMode(gpu)),
    "power_limit_mw": lambda nvml, gpu: nvml.nvmlDeviceGetPowerManagementLimit(gpu),
    "temperature_c": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    "numa_node": lambda nvml, gpu: nvml.nvmlDeviceGetNumaNodeId(gpu),
    "pcie_generation": lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkGeneration(gpu),
    "pcie_generation_max": lambda nvml, gpu: nvml.nvmlDeviceGetMaxPcieLinkGeneration(gpu),
    "pcie_width": lambda nvml, gpu: nvml.nvmlDeviceGetCurrPcieLinkWidth(gpu),
    "pcie_width_max": lambda nvml, gpu: nvml.nvmlDeviceGetMaxPcieLinkWidth(gpu),
}


def read_gpus() -> dict[str, Any]:
    """Return the driver's version and each GPU's state; {"gpus": []} where there is no driver."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no module, no library, no driver: each in its own way
        return {"gpus": []}
    try:
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return {"driver": driver, "gpus": [_read_gpu(pynvml, device) for device in devices]}
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(nvml: Any, device: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, query in _QUERIES.items():
        try:
            state[name] = query(nvml, device)
        except (nvml.NVMLError, AttributeError):  # this GPU, or this version, does not know it
            state[name] = None
    return state


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
