"""The sweeps of what a run is asked for, or is given: prompts, requests at a time, batches, allocators, threads."""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..engines.vllm import VllmChoices
from .kind import GENERATED_TOKENS, Kind, Order
from .point import Point
from .run_settings import EngineArgument
from .setting import Variable

_LIBRARIES = {"jemalloc": "jemalloc", "tcmalloc": "tcmalloc_minimal", "mimalloc": "mimalloc"}
_PACKAGES = "apt install libjemalloc2 libtcmalloc-minimal4 libmimalloc2.0"
_CONCURRENCY, _CONCURRENT_REQUESTS = 16, 40


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
        Point({"max_model_len": n}, replace(order.request, vllm=VllmChoices(arguments=("--max-model-len", str(n)))))
        for n in order.values or (2048, 4096, 8192, 16384, 32768)
    ]


def _batch_limits(flag: str, usual: Sequence[int]) -> Callable[[Order], list[Point]]:
    """Return what plans a sweep of a limit on vLLM's batches, first of the engine's own, under load."""

    def plan(order: Order) -> list[Point]:
        n_requests = max(order.request.n_requests, _CONCURRENT_REQUESTS)
        request = replace(order.request, n_requests=n_requests, vllm=VllmChoices(concurrency=_CONCURRENCY))
        column = flag.strip("-").replace("-", "_")
        own = Point({column: "default"}, request)
        return [
            own,
            *(Point({column: n}, request, (EngineArgument(flag, n),)) for n in map(str, order.values or usual)),
        ]

    return plan


def _allocators(order: Order) -> list[Point]:
    request = replace(order.request, n_requests=max(order.request.n_requests, 8), n_new_tokens=GENERATED_TOKENS)
    return [
        Point({"allocator": name}, request, (Variable("LD_PRELOAD", path),) if path else ())
        for name, path in find_allocators().items()
    ]


def _threads(order: Order) -> list[Point]:
    n_cpus = len(os.sched_getaffinity(0))
    counts = order.values or sorted({1, max(1, n_cpus // 2), n_cpus, 2 * n_cpus}, key=lambda n: (n != n_cpus, n))
    request = replace(order.request, n_new_tokens=GENERATED_TOKENS)
    return [Point({"threads": n}, request, (Variable("OMP_NUM_THREADS", str(n)),)) for n in counts]


RUN_KINDS = (
    Kind("prompt-length", "tokens of the prompt", _prompt_lengths),
    Kind("concurrency", "requests at a time", _concurrencies, engine="vllm"),
    Kind("kv", "max-model-len", _context_lengths, engine="vllm"),
    Kind(
        "batch-tokens",
        f"max-num-batched-tokens, with {_CONCURRENCY} requests at a time",
        _batch_limits("--max-num-batched-tokens", (1024, 2048, 8192)),
        engine="vllm",
    ),
    Kind(
        "batch-requests",
        f"max-num-seqs, with {_CONCURRENCY} requests at a time",
        _batch_limits("--max-num-seqs", (4, 8, 16)),
        engine="vllm",
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
