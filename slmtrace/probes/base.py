"""What a probe is, and what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..capture.directory import Capture

# Names the socket of the service to ask for a collector (collector_service.py).
COLLECTOR_SOCKET = "SLMTRACE_COLLECTOR_SOCKET"


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a probe can run here, found by trying: `status` is "ok", "partial" or "unavailable".

    `reason` says what is missing, `remedy` the exact command or setting that would help, `detail` facts for doctor.
    """

    status: str
    reason: str = ""
    remedy: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def is_available(self) -> bool:
        """Say whether it records anything here."""
        return self.status != "unavailable"


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What the user asked a recording to be."""

    tier: str = "light"  # light, deep
    malloc: str = "default"  # off, default, slow, full
    has_gpu_kernels: bool = True  # kernels, copies and graphs; else the light tier knows the calls alone
    threshold_ns: int = 20_000  # events at least this long are sent one by one, shorter ones folded
    sample_hz: int = 100  # py-spy
    counter_hz: int = 10  # /proc, PSI; NVML at twice that
    ring_bytes: int = 32 << 20
    http: bool = False  # tell requests by the HTTP connections of the tree: it cannot tell of them itself
    cuda_libraries: tuple[str, ...] = ()  # CUDA drivers to probe: the tree that has them mapped records no CUDA itself


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How a probe fared: for the manifest's `sources`, ledger and overhead."""

    status: str  # ok, partial, unavailable
    reason: str = ""
    seen: int = 0  # records the source produced
    written: int = 0  # records it wrote
    lost: dict[str, int] = field(default_factory=dict)  # by cause
    overhead: dict[str, Any] = field(default_factory=dict)  # what the probe itself cost, with the method
    facts: dict[str, Any] = field(default_factory=dict)  # tier, versions, ...


class Probe:
    """A source of evidence. The recorder calls, in this order: check, start, environ, enroll, poll..., stop.

    A probe never harms the target and never raises out of poll or stop: what goes wrong ends in its result.
    """

    name: str = ""

    def check(self) -> Availability:
        """Try whether the probe can run here, for real; leaves nothing behind."""
        raise NotImplementedError

    def start(self, capture: Capture, options: RecordOptions) -> None:
        """Get ready before the target runs.

        Raises:
            SlmtraceError: it cannot; the recording goes on without it unless it was required.
        """

    def environ(self, environ: dict[str, str]) -> dict[str, str]:
        """Return what to change in the target's environment, given what it is."""
        return {}

    def enroll(self, pid: int) -> None:
        """Include this process, and every thread and process that it will start."""

    def poll(self) -> None:
        """Do periodic work; called about every 50 ms while the target runs."""

    def stop(self) -> ProbeResult:
        """Finish the logs and account for them."""
        raise NotImplementedError


def ebpf_source_dir() -> Path:
    """Return the directory of the BPF C programs: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "_ebpf", package.parent / "ebpf"):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError("the ebpf/ directory is missing from this installation")
