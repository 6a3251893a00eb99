"""How many replicas of a program fit on this node, and what runs out first: arithmetic over what a sweep measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ..probes.gpu_state import read_gpus
from ..probes.memory_state import read_cgroup, read_memory
from ..units import format_bytes
from .recommend import saturation_point
from .recommendation import COMPUTED, Recommendation
from .run_settings import Replicas
from .sweep import Row


@dataclass(frozen=True, slots=True)
class Node:
    """What a node has for programs, now."""

    n_cpus: float
    memory_bytes: int
    gpu_memory_bytes: tuple[int, ...] = ()  # of each GPU


def read_node() -> Node:
    """Return what this node has, and this program may take."""
    cgroup = read_cgroup("self")
    sizes = (read_memory()["memory"]["available_bytes"], cgroup["memory_max_bytes"], cgroup["memory_high_bytes"])
    gpus = [int(gpu.get("memory_total_bytes") or 0) for gpu in read_gpus()["gpus"]]
    n_cpus = len(os.sched_getaffinity(0))
    return Node(
        n_cpus=min(n_cpus, cgroup["cpu_limit_cpus"] or n_cpus),
        memory_bytes=min(size for size in sizes if size is not None),
        gpu_memory_bytes=tuple(gpu for gpu in gpus if gpu),
    )


def fit_replicas(rows: Sequence[Row], node: Node) -> list[Recommendation]:
    """Return how many replicas fit; nothing where the CPUs or the memory of one were not measured.

    One is measured at the concurrency from which on its throughput grows no more, else at the sweep's first point. Its
    resident memory counts in full, though replicas share the pages of files that they map.
    """
    saturation = saturation_point(rows)
    measured = [row for row in rows if row.get("concurrency") == saturation] if saturation else _first(rows)
    one = {name: _median(measured, name) for name in ("busy_cpus", "rss_bytes", "gpu_memory_used_bytes")}
    if not one["busy_cpus"] or not one["rss_bytes"]:
        return []
    gpu_bytes = int(one["gpu_memory_used_bytes"])
    limits = {
        f"CPUs ({one['busy_cpus']:.2g} of {node.n_cpus:g} are kept busy)": int(node.n_cpus / one["busy_cpus"]),
        f"memory ({format_bytes(int(one['rss_bytes']))} of {format_bytes(node.memory_bytes)})": int(
            node.memory_bytes / one["rss_bytes"]
        ),
    }
    if gpu_bytes and node.gpu_memory_bytes:
        total = f"{len(node.gpu_memory_bytes)} x {format_bytes(node.gpu_memory_bytes[0])}"
        limits[f"GPU memory ({format_bytes(gpu_bytes)} of {total})"] = sum(
            size // gpu_bytes for size in node.gpu_memory_bytes
        )
    tightest = min(limits, key=lambda name: limits[name])
    n = max(1, limits[tightest])
    others = ", ".join(f"{name} for {count}" for name, count in limits.items() if name != tightest)
    at = f" at {saturation} requests at a time, where throughput saturates" if saturation else ""
    reason = f"{n} fit this node, limited by {tightest}; {others}; measured of one{at}"
    replicas = Replicas(n, round(one["busy_cpus"], 1), int(one["rss_bytes"]))
    return [Recommendation("replicas", reason, COMPUTED, (replicas,))]


def _first(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of the point that the others are compared with."""
    return [row for row in rows if row.get("point") == rows[0].get("point")]


def _median(rows: Sequence[Row], name: str) -> float:
    values = [float(row[name]) for row in rows if name in row]
    return median(values) if values else 0.0
