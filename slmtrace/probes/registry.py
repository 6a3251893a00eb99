"""All probes by name, in the order in which they start: the one place that lists them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import UsageError
from .base import Probe


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a probe's class is, what it answers and what it needs."""

    module: str
    class_name: str
    answers: str


# The collector comes first: it takes longest to come up, and must see the first instruction of the target.
REGISTRY: dict[str, Entry] = {
    "ebpf": Entry(
        "ebpf",
        "EbpfProbe",
        "page faults, scheduling, block I/O, system calls, memory management; in attach, CUDA calls",
    ),
    "malloc": Entry("malloc", "MallocProbe", "slow allocator calls of the program (--malloc slow)"),
    "proc": Entry("proc", "ProcProbe", "memory, CPU and pressure counters"),
    "nvml": Entry("nvml", "NvmlProbe", "GPU clocks, power and PCIe counters"),
    "cuda": Entry("cuda", "CudaProbe", "GPU kernels, copies and waits, module loads, CUDA API calls"),
    "pyspy": Entry("pyspy", "PySpyProbe", "Python stacks by sampling"),
    "ranges": Entry("ranges", "RangesProbe", "stages and requests: imports, loading, generation"),
}
PROBE_NAMES = tuple(REGISTRY)
# The malloc probe joins them for --malloc slow; the collector does --malloc full.
DEFAULT_PROBES = ("ebpf", "proc", "ranges")
PROBES_IF_PRESENT = ("nvml", "cuda")
DEEP_PROBES = (*DEFAULT_PROBES, "pyspy")


def make_probe(name: str) -> Probe:
    """Make a probe; its module is imported here and nowhere earlier."""
    entry = REGISTRY[name]
    probe_class = getattr(importlib.import_module(f"{__package__}.{entry.module}"), entry.class_name)
    probe: Probe = probe_class()
    return probe


def parse_names(text: str) -> tuple[str, ...]:
    """Read a comma-separated list of probe names, in the order of the registry.

    Raises:
        UsageError: a name is none of ours.
    """
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(PROBE_NAMES))
    if unknown:
        raise UsageError(f"no such probe: {', '.join(unknown)}", hint=f"choose from {', '.join(sorted(PROBE_NAMES))}")
    return in_order(names)


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names in the order of the registry."""
    wanted = set(names)
    return tuple(name for name in PROBE_NAMES if name in wanted)
