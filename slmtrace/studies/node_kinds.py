"""The sweeps of how weights and memory are got: page cache, huge pages, readahead. They change settings of the node."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..engines.models import find_model
from ..errors import UsageError
from ..probes.memory_state import read_memory
from ..probes.procfs import read_table
from ..probes.storage_state import read_storage
from .kind import Kind, Order
from .node_files import read_node_file
from .point import Point
from .setting import HugePagePool, NodeFile, Setting, Variable

THP_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
THP_MODES = ("always", "madvise", "never")
BLOCK_DEVICES = Path("/sys/class/block")
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
    files = [_queue_of(name) / "read_ahead_kb" for name in _devices_of_weights(order)]
    found = [int(read_node_file(file)) for file in files]
    sizes_kb = order.values or sorted({*_READAHEADS_KB, *found[:1]}, key=lambda size_kb: (size_kb != found[0], size_kb))
    return [
        Point(
            {"read_ahead_kb": size_kb},
            replace(order.request, cache="cold", n_requests=2),
            tuple(NodeFile(file, str(size_kb)) for file in files),
        )
        for size_kb in (sizes_kb if files else ())
    ]


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
)
