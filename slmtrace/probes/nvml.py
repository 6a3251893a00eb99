"""The NVML probe: clocks, power, utilisation, memory and PCIe traffic of each GPU, 20 times a second.

It has a thread of its own, because NVML measures PCIe throughput over 20 ms and blocks for as long.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ..capture.directory import Capture
from .base import Availability, Probe, ProbeResult, RecordOptions
from .slotlog import SlotLog

STOP_TIMEOUT_S = 5

Query = Callable[[Any, Any], int]  # (pynvml, device) -> value

# By counter name; the last word is the unit.
QUERIES: dict[str, Query] = {
    "sm_clock MHz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
    "memory_clock MHz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
    "power mW": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu),
    "gpu_utilization %": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu,
    "memory_utilization %": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).memory,
    "memory_used bytes": lambda nvml, gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
    "temperature C": lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
    "throttle_reasons bits": lambda nvml, gpu: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu),
    "performance_state pstate": lambda nvml, gpu: nvml.nvmlDeviceGetPerformanceState(gpu),
    "pcie_tx kB/s": lambda nvml, gpu: nvml.nvmlDeviceGetPcieThroughput(gpu, nvml.NVML_PCIE_UTIL_TX_BYTES),
    "pcie_rx kB/s": lambda nvml, gpu: nvml.nvmlDeviceGetPcieThroughput(gpu, nvml.NVML_PCIE_UTIL_RX_BYTES),
}


class NvmlProbe(Probe):
    """Reads GPU counters from a thread of the recorder; a query that a GPU does not know is asked once."""

    name = "nvml"

    def __init__(self) -> None:
        self._nvml: Any = None
        self._queries: list[tuple[str, Query, Any]] = []  # (counter, query, device)
        self._missing: list[str] = []
        self._log: SlotLog | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._interval_s = 0.05
        self._cpu_ns = 0
        self._n_reads = 0
        self._failure = ""

    def check(self) -> Availability:
        """Start NVML, count the GPUs, and shut it down again."""
        try:
            import pynvml
        except ImportError:
            return Availability("unavailable", "pynvml is not installed", "pip install nvidia-ml-py")
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            return Availability("unavailable", f"no NVIDIA driver: {error}", _remedy(str(error)))
        try:
            n_gpus = pynvml.nvmlDeviceGetCount()
            if n_gpus == 0:
                return Availability("unavailable", "the NVIDIA driver has no GPU", "nvidia-smi shows which are visible")
            return Availability("ok", detail={"gpus": n_gpus, "driver": _text(pynvml.nvmlSystemGetDriverVersion())})
        finally:
            pynvml.nvmlShutdown()

    def start(self, capture: Capture, options: RecordOptions) -> None:
        """Open every GPU and the log, and start the thread."""
        import pynvml

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._interval_s = 1 / (2 * options.counter_hz)
        devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        self._queries = [
            (f"gpu{i} {name}", query, gpu) for i, gpu in enumerate(devices) for name, query in QUERIES.items()
        ]
        self._log = SlotLog(capture.raw / "nvml.bin", "nvml", counter_hz=2 * options.counter_hz)
        self._thread = threading.Thread(target=self._run, name="slmtrace-nvml", daemon=True)
        self._thread.start()

    def stop(self) -> ProbeResult:
        """End the thread and close the log."""
        if self._thread is None or self._log is None:
            return ProbeResult("unavailable", "never started")
        self._stopping.set()
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            return ProbeResult(
                "partial", "NVML does not answer any more", seen=self._log.written, written=self._log.written
            )
        self._log.close()
        self._nvml.nvmlShutdown()
        return ProbeResult(
            "partial" if self._failure else "ok",
            self._failure,
            seen=self._log.written + self._log.lost,
            written=self._log.written,
            lost={"log_write": self._log.lost} if self._log.lost else {},
            overhead={"cpu_ns": self._cpu_ns, "reads": self._n_reads, "method": "CPU time of the NVML thread"},
            facts={"missing_queries": self._missing},
        )

    def _run(self) -> None:
        try:
            pause_s = 0.0
            while not self._stopping.wait(pause_s) or not self._n_reads:
                started = time.monotonic()
                self._read()
                self._cpu_ns = time.thread_time_ns()
                pause_s = max(0.0, self._interval_s - (time.monotonic() - started))
        except Exception as error:  # a GPU that fell off the bus must not take the recorder along
            self._failure = f"stopped at {self._n_reads} readings: {error}"

    def _read(self) -> None:
        assert self._log is not None
        for entry in list(self._queries):
            name, query, device = entry
            try:
                value = int(query(self._nvml, device))
            except (self._nvml.NVMLError, AttributeError):
                self._queries.remove(entry)
                self._missing.append(name)
                continue
            self._log.counter(name, time.monotonic_ns(), value)
        self._n_reads += 1


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _remedy(message: str) -> str:
    if "Not Found" in message:
        return "install the NVIDIA driver (libnvidia-ml.so.1); in a container, start it with --gpus all"
    return "modprobe nvidia, and see dmesg"
