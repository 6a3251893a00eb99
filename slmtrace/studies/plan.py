"""What a sweep records: the points of each kind of sweep."""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..builtin import RunRequest
from ..engines.vllm import VllmChoices
from ..errors import UsageError
from .node_files import read_node_file
from .point import Point
from .setting import NodeFile, Variable

THP_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
THP_MODES = ("always", "madvise", "never")
_LIBRARIES = {"jemalloc": "jemalloc", "tcmalloc": "tcmalloc_minimal", "mimalloc": "mimalloc"}
_PACKAGES = "apt install libjemalloc2 libtcmalloc-minimal4 libmimalloc2.0"
_CONCURRENT_REQUESTS, _GENERATED_TOKENS = 40, 32


@dataclass(frozen=True, slots=True)
class Order:
    """What a user asks of a sweep."""

    request: RunRequest
    values: Sequence[int] = ()  # the points, in place of the usual ones
    may_apply: bool = False  # the node's settings may be changed


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of sweep: what its axis is, and its points; the first is what the others are compared with."""

    name: str
    axis: str  # in a few words
    plan: Callable[[Order], list[Point]]
    engine: str = ""  # the only one that can; '': any
    takes_values: bool = True
    missing: str = "name two --values or more, such as 128,512"  # what to do where there is nothing to compare

    @property
    def help(self) -> str:
        """Return its line of the command's help."""
        return self.axis + (f" ({self.engine})" if self.engine else "")


def plan_sweep(name: str, order: Order) -> list[Point]:
    """Return the points of a sweep of this kind; the first is what the others are compared with.

    Raises:
        UsageError: the kind takes no values, or needs another engine, or nothing can be compared here.
    """
    kind = find_kind(name)
    if order.values and not kind.takes_values:
        raise UsageError(f"the sweep {name} takes no --values", hint="leave them out")
    if kind.engine and order.request.engine != kind.engine:
        raise UsageError(f"the sweep {name} needs --engine {kind.engine}", hint=f"add --engine {kind.engine}")
    points = kind.plan(order)
    if len(points) < 2:
        raise UsageError(f"the sweep {name} has nothing to compare here", hint=kind.missing)
    return points


def find_kind(name: str) -> Kind:
    """Return the kind of this name."""
    return next(kind for kind in KINDS if kind.name == name)


def find_allocators() -> dict[str, str]:
    """Return the allocators that can be preloaded here, by name; glibc's own comes first, with no library."""
    found = {"glibc": ""}
    for name, library in _LIBRARIES.items():
        path = ctypes.util.find_library(library)
        if path:
            found[name] = path
    return found


def _prompt_lengths(order: Order) -> list[Point]:
    return [
        Point({"prompt_tokens": n}, replace(order.request, n_prompt_tokens=n))
        for n in order.values or (32, 128, 256, 512, 1024)
    ]


def _concurrencies(order: Order) -> list[Point]:
    request = replace(order.request, n_requests=max(order.request.n_requests, _CONCURRENT_REQUESTS))
    return [
        Point({"concurrency": n}, replace(request, vllm=VllmChoices(concurrency=n)))
        for n in order.values or (1, 2, 4, 8, 16)
    ]


def _context_lengths(order: Order) -> list[Point]:
    return [
        Point({"max_model_len": n}, replace(order.request, vllm=VllmChoices(max_model_len=n)))
        for n in order.values or (2048, 4096, 8192, 16384, 32768)
    ]


def _loads(order: Order) -> list[Point]:
    # The mode found comes first: it is what the others are compared with.
    now = read_node_file(THP_ENABLED) if order.may_apply else ""
    modes = sorted(THP_MODES, key=lambda mode: mode != now) if order.may_apply else [""]
    return [
        Point(
            {"cache": cache, **({"thp": mode} if mode else {})},
            replace(order.request, cache=cache, n_requests=2),
            (NodeFile(THP_ENABLED, mode),) if mode else (),
        )
        for mode in modes
        for cache in ("cold", "warm")
    ]


def _allocators(order: Order) -> list[Point]:
    request = replace(order.request, n_requests=max(order.request.n_requests, 8), n_new_tokens=_GENERATED_TOKENS)
    return [
        Point({"allocator": name}, request, (Variable("LD_PRELOAD", path),) if path else ())
        for name, path in find_allocators().items()
    ]


def _threads(order: Order) -> list[Point]:
    n_cpus = len(os.sched_getaffinity(0))
    counts = order.values or sorted({1, max(1, n_cpus // 2), n_cpus, 2 * n_cpus}, key=lambda n: (n != n_cpus, n))
    request = replace(order.request, n_new_tokens=_GENERATED_TOKENS)
    return [Point({"threads": n}, request, (Variable("OMP_NUM_THREADS", str(n)),)) for n in counts]


KINDS = (
    Kind("prompt-length", "tokens of the prompt", _prompt_lengths),
    Kind("concurrency", "requests at a time", _concurrencies, engine="vllm"),
    Kind("kv", "max-model-len", _context_lengths, engine="vllm"),
    Kind(
        "load",
        "weights in the page cache or not; with --apply also each huge page mode",
        _loads,
        takes_values=False,
    ),
    Kind(
        "allocator",
        "glibc, and those of jemalloc, tcmalloc and mimalloc that are installed",
        _allocators,
        takes_values=False,
        missing=_PACKAGES,
    ),
    Kind("threads", "OMP_NUM_THREADS", _threads),
)
