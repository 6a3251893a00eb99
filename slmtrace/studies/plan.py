"""What a sweep records: its points, each a run request and the values that tell it from the others."""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..builtin import RunRequest
from ..engines.vllm import VllmChoices
from ..errors import UsageError
from .setting import THP_ENABLED, read_setting

KINDS = ("prompt-length", "concurrency", "kv", "load", "allocator", "threads")
THP_MODES = ("always", "madvise", "never")
_LIBRARIES = {"jemalloc": "jemalloc", "tcmalloc": "tcmalloc_minimal", "mimalloc": "mimalloc"}
_DEFAULTS = {
    "prompt-length": (32, 128, 256, 512, 1024),
    "concurrency": (1, 2, 4, 8, 16),
    "kv": (2048, 4096, 8192, 16384, 32768),
}
_CONCURRENT_REQUESTS, _GENERATED_TOKENS = 40, 32


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a sweep. `values` are its columns, in order; the first is the axis."""

    values: Mapping[str, str | int]
    request: RunRequest
    thp: str = ""  # the mode to set before the run; '': as it is

    @property
    def name(self) -> str:
        """Return the point's name, unique in its sweep."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())


def plan_sweep(kind: str, request: RunRequest, values: Sequence[int] = (), *, may_apply: bool = False) -> list[Point]:
    """Return the points of a sweep of this kind around a request; the first is what the others are compared with.

    Raises:
        UsageError: the kind takes no values, or needs another engine, or nothing can be compared here.
    """
    plans: Mapping[str, Callable[[], list[Point]]] = {
        "prompt-length": lambda: [
            Point({"prompt_tokens": n}, replace(request, n_prompt_tokens=n)) for n in _choose(kind, values)
        ],
        "concurrency": lambda: [_concurrent(request, n) for n in _choose(kind, values)],
        "kv": lambda: [
            Point({"max_model_len": n}, replace(request, vllm=VllmChoices(max_model_len=n)))
            for n in _choose(kind, values)
        ],
        "load": lambda: _loads(request, may_apply=may_apply),
        "allocator": lambda: _allocators(request),
        "threads": lambda: _threads(request, values),
    }
    if values and kind in ("load", "allocator"):
        raise UsageError(f"the sweep {kind} takes no --values", hint="leave them out")
    if kind in ("concurrency", "kv") and request.engine != "vllm":
        raise UsageError(f"the sweep {kind} needs --engine vllm", hint="add --engine vllm")
    points = plans[kind]()
    if len(points) < 2:
        packages = "apt install libjemalloc2 libtcmalloc-minimal4 libmimalloc2.0"
        raise UsageError(
            f"the sweep {kind} has nothing to compare here",
            hint=packages if kind == "allocator" else "name two --values or more, such as 128,512",
        )
    return points


def find_allocators() -> dict[str, str]:
    """Return the allocators that can be preloaded here, by name; glibc's own comes first, with no library."""
    found = {"glibc": ""}
    for name, library in _LIBRARIES.items():
        path = ctypes.util.find_library(library)
        if path:
            found[name] = path
    return found


def _choose(kind: str, values: Sequence[int]) -> Sequence[int]:
    return values or _DEFAULTS[kind]


def _concurrent(request: RunRequest, n: int) -> Point:
    n_requests = max(request.n_requests, _CONCURRENT_REQUESTS)
    return Point({"concurrency": n}, replace(request, n_requests=n_requests, vllm=VllmChoices(concurrency=n)))


def _loads(request: RunRequest, *, may_apply: bool) -> list[Point]:
    # The mode found comes first: it is what the others are compared with.
    now = read_setting(THP_ENABLED) if may_apply else ""
    modes = sorted(THP_MODES, key=lambda mode: mode != now) if may_apply else [""]
    return [
        Point({"cache": cache, **({"thp": mode} if mode else {})}, replace(request, cache=cache, n_requests=2), mode)
        for mode in modes
        for cache in ("cold", "warm")
    ]


def _allocators(request: RunRequest) -> list[Point]:
    longer = replace(request, n_requests=max(request.n_requests, 8), n_new_tokens=_GENERATED_TOKENS)
    return [
        Point({"allocator": name}, replace(longer, environ={"LD_PRELOAD": path} if path else {}))
        for name, path in find_allocators().items()
    ]


def _threads(request: RunRequest, values: Sequence[int]) -> list[Point]:
    n_cpus = len(os.sched_getaffinity(0))
    counts = values or sorted({1, max(1, n_cpus // 2), n_cpus, 2 * n_cpus}, key=lambda n: (n != n_cpus, n))
    longer = replace(request, n_new_tokens=_GENERATED_TOKENS)
    return [Point({"threads": n}, replace(longer, environ={"OMP_NUM_THREADS": str(n)})) for n in counts]


def describe_environ(point: Point) -> dict[str, str]:
    """Return what a user sets to get this point, by variable; libraries by their file name."""
    return {name: Path(value).name if "/" in value else value for name, value in point.request.environ.items()}
