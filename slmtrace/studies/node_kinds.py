"""The sweeps of what a run has from its node: page cache, huge pages, readahead, CPUs, NUMA nodes."""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..engines.models import find_model
from ..errors import UsageError
from ..probes.memory_state import read_memory, read_numa
from ..probes.procfs import read_table, read_text
from ..probes.storage_state import read_storage
from .cpu_list import format_cpus, parse_cpus
from .kind import GENERATED_TOKENS, Kind, Order
from .node_files import read_node_file
from .point import Point
from .run_settings import Cpus, EngineArgument, NumaPolicy, Prefetch
from .setting import HugePagePool, NodeFile, Setting, Variable

THP_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
THP_MODES = ("always", "madvise", "never")
BLOCK_DEVICES = Path("/sys/class/block")
CPUS = Path("/sys/devices/system/cpu")
CACHES = ("cold", "warm")
# What malloc gets by mmap, and the heaps of its arenas, come from the pool (glibc 2.35 and newer); the rest does not.
_USE_POOL = Variable("GLIBC_TUNABLES", "glibc.malloc.hugetlb=2")
# Beside the weights, what a load and a few requests of a small model allocate.
_HEAP_BYTES = 512 << 20
_READAHEADS_KB = (128, 1024, 8192)
# Values of an axis: its column in each of them, and what is set for it.
Axis = Sequence[tuple[str | int, tuple[Setting, ...]]]


def _loads(order: Order) -> list[Point]:
    return _cross_caches(order, {"thp": _thp_modes()} if order.may_apply else {})


def _huge_pages(order: Order) -> list[Point]:
    return _cross_caches(order, {"thp": _thp_modes(), "hugepages": _pools(order)})


def _cross_caches(order: Order, axes: dict[str, Axis]) -> list[Point]:
    """Return a cold and a warm point for every combination of what is set."""
    return [
        Point(
            {"cache": cache, **dict(zip(axes, [label for label, _ in values], strict=True))},
            replace(order.request, cache=cache, n_requests=2),
            tuple(setting for _, settings in values for setting in settings),
        )
        for values in itertools.product(*axes.values())
        for cache in CACHES
    ]


def _thp_modes() -> Axis:
    """Return the modes; the one found comes first: it is what the others are compared with."""
    now = read_node_file(THP_ENABLED)
    return [(mode, (NodeFile(THP_ENABLED, mode),)) for mode in sorted(THP_MODES, key=lambda mode: mode != now)]


def _pools(order: Order) -> Axis:
    """Return the pool as it is, which malloc does not use, and pools of so many pages more, which it does."""
    page_bytes = read_table(Path("/proc/meminfo")).get("Hugepagesize", 2048) * 1024
    weights_bytes = sum(file.stat().st_size for file in find_model(order.request.model_name).weight_files)
    counts = order.values or [math.ceil((weights_bytes + _HEAP_BYTES) / page_bytes)]
    available_bytes = read_memory()["memory"]["available_bytes"]
    if max(counts) * page_bytes > available_bytes / 2:
        raise UsageError(
            f"a pool of {max(counts)} huge pages would take more than half of the memory that is available",
            hint=f"--values {int(available_bytes / 2 / page_bytes)} is the most",
        )
    found = int(read_node_file(HugePagePool.PATH))
    pools = [(n, HugePagePool(HugePagePool.PATH, str(found + n), n * page_bytes, page_bytes)) for n in (0, *counts)]
    return [(n, (pool, _USE_POOL) if n else (pool,)) for n, pool in pools]


def _readaheads(order: Order) -> list[Point]:
    """Return the readahead found, and others."""
    files = [_queue_of(name) / "read_ahead_kb" for name in _devices_of_weights(order)]
    found = [int(read_node_file(file)) for file in files]
    request = replace(order.request, cache="cold", n_requests=2)
    return [
        Point({"read_ahead_kb": size_kb}, request, tuple(NodeFile(file, str(size_kb)) for file in files))
        for size_kb in dict.fromkeys((*found[:1], *(order.values or _READAHEADS_KB)))
        if files
    ]


def _prefetches(order: Order) -> list[Point]:
    """Return ways to get weights that are not in the page cache; first the engine's own, as they are needed."""
    files = find_model(order.request.model_name).weight_files
    strategies = ("prefetch", "eager") if order.request.engine == "vllm" else ()
    ways: Axis = [
        ("none", ()),
        ("cat", (Prefetch(files),)),
        *((f"vllm-{one}", (EngineArgument("--safetensors-load-strategy", one),)) for one in strategies),
    ]
    request = replace(order.request, cache="cold", n_requests=2)
    return [Point({"prefetch": label}, request, settings) for label, settings in ways]


def _cpu_sets(order: Order) -> list[Point]:
    """Return all CPUs, then: one thread of each core, the CPUs of each NUMA node, half of them; or so many."""
    allowed = tuple(sorted(os.sched_getaffinity(0)))
    if max(order.values, default=0) > len(allowed):
        raise UsageError(f"there are {len(allowed)} CPUs to run on", hint="use smaller --values")
    cores = [cpu for cpu in allowed if min(_siblings(cpu) & {*allowed}, default=cpu) == cpu]
    nodes = [[cpu for cpu in allowed if cpu in parse_cpus(node["cpus"] or "")] for node in read_numa("self")["nodes"]]
    usual = [cores, *nodes, allowed[: len(allowed) // 2]]
    sets = [allowed[:n] for n in order.values] if order.values else usual
    chosen = [cpus for cpus in dict.fromkeys(tuple(one) for one in sets) if cpus and cpus != allowed]
    request = replace(order.request, n_new_tokens=GENERATED_TOKENS)
    return [
        Point({"cpus": format_cpus(cpus)}, request, (Cpus(cpus),) if cpus != allowed else ())
        for cpus in (allowed, *chosen)
    ]


def _siblings(cpu: int) -> set[int]:
    """Return the threads of a CPU's core."""
    return parse_cpus(read_text(CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list") or "")


def _numa_policies(order: Order) -> list[Point]:
    """Return the kernel's own policy, interleaving, and each node that has CPUs."""
    nodes = [str(node["node"]) for node in read_numa("self")["nodes"] if node["cpus"]]
    policies: Axis = [
        ("default", ()),
        ("interleave", (NumaPolicy("interleave"),)),
        *((f"node {node}", (NumaPolicy("bind", node),)) for node in nodes),
    ]
    request = replace(order.request, n_new_tokens=GENERATED_TOKENS)
    if len(nodes) > 1 and shutil.which("numactl") is None:
        raise UsageError("the sweep numa needs numactl", hint="apt install numactl")
    return [Point({"numa": label}, request, settings) for label, settings in (policies if len(nodes) > 1 else ())]


def _devices_of_weights(order: Order) -> list[str]:
    """Return the block devices that the model's weights are read from."""
    described = read_storage(find_model(order.request.model_name).weight_files, "self")
    return sorted({one["device"]["name"] for one in described if one["device"]})


def _queue_of(device: str) -> Path:
    """Return the directory of a device's queue; a partition has that of its disk."""
    directory = (BLOCK_DEVICES / device).resolve()
    return (directory.parent if (directory / "partition").exists() else directory) / "queue"


NODE_KINDS = (
    Kind(
        "load",
        "weights in the page cache or not; with --apply also each mode of transparent huge pages",
        _loads,
        takes_values=False,
    ),
    Kind(
        "hugepages",
        "the same, and a pool of vm.nr_hugepages that glibc's malloc uses, of so many pages more",
        _huge_pages,
        needs_apply=True,
    ),
    Kind(
        "readahead",
        "read_ahead_kb of the weights' device, for a load with nothing in the page cache",
        _readaheads,
        needs_apply=True,
        missing="the weights lie on no block device: name a --model on a local disk",
    ),
    Kind(
        "prefetch",
        "weights that are not in the page cache: read when they are needed, or while the program starts",
        _prefetches,
        takes_values=False,
    ),
    Kind(
        "cpus",
        "so many CPUs, by taskset; else one thread of each core, those of each NUMA node, half of them",
        _cpu_sets,
        missing="this program may run on one CPU alone",
    ),
    Kind(
        "numa",
        "the kernel's policy, interleaved memory, and each NUMA node, by numactl",
        _numa_policies,
        takes_values=False,
        missing="this machine has one NUMA node; the sweep cpus pins without it",
    ),
)
