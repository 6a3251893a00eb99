"""Make slices that Perfetto can show: nested on a thread's lane, or spread over lanes where they overlap.

An END record of the format closes the slice on top of its track's stack, whatever it was meant for. So slices that
cross, or have no length, corrupt their neighbours and no statistic says so. Both are dealt with here.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from ...model.events import Ints


def nest(lane: Ints, start_ns: Ints, end_ns: Ints) -> tuple[Ints, Ints, int]:
    """Cut slices at their parent's end; return the ends, each slice's depth in its lane, and how many were cut.

    Every slice comes out at least 1 ns long. (Two slices cannot cross within 1 ns, so this never breaks the nesting.)
    """
    ends = np.maximum(end_ns, start_ns + 1)
    depth = np.zeros(len(lane), np.int64)
    order = np.lexsort((-ends, start_ns, lane))
    n_cut = 0
    for rows in _busy_lanes(lane, start_ns, ends, order):
        n_cut += _nest_lane(rows, start_ns, ends, depth)
    return ends, depth, n_cut


def spread(lane: Ints, start_ns: Ints, end_ns: Ints) -> Ints:
    """Number sub-lanes so that no two slices of one (lane, sub-lane) overlap; as few as can be."""
    ends = np.maximum(end_ns, start_ns + 1)
    sub_lane = np.zeros(len(lane), np.int64)
    order = np.lexsort((-ends, start_ns, lane))
    for rows in _busy_lanes(lane, start_ns, ends, order):
        free: list[int] = []
        busy: list[tuple[int, int]] = []  # (end, sub-lane)
        chosen: list[int] = []
        for start, end in zip(start_ns[rows].tolist(), ends[rows].tolist(), strict=True):
            while busy and busy[0][0] <= start:
                heapq.heappush(free, heapq.heappop(busy)[1])
            number = heapq.heappop(free) if free else len(busy)
            heapq.heappush(busy, (end, number))
            chosen.append(number)
        sub_lane[rows] = chosen
    return sub_lane


def _busy_lanes(lane: Ints, start_ns: Ints, end_ns: Ints, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return, for each lane on which slices overlap or nest at all, its rows in order. Most lanes are flat."""
    lanes, starts, ends = lane[order], start_ns[order], end_ns[order]
    overlaps = (lanes[1:] == lanes[:-1]) & (starts[1:] < ends[:-1])
    busy = np.unique(lanes[1:][overlaps])
    low, high = np.searchsorted(lanes, busy), np.searchsorted(lanes, busy, side="right")
    return [order[a:b] for a, b in zip(low.tolist(), high.tolist(), strict=True)]


def _nest_lane(rows: NDArray[np.int64], start_ns: Ints, end_ns: Ints, depth: Ints) -> int:
    stack: list[int] = []
    ends: list[int] = []
    depths: list[int] = []
    n_cut = 0
    for start, wanted in zip(start_ns[rows].tolist(), end_ns[rows].tolist(), strict=True):
        while stack and stack[-1] <= start:
            stack.pop()
        end = wanted
        if stack and end > stack[-1]:
            end = stack[-1]
            n_cut += 1
        depths.append(len(stack))
        ends.append(end)
        stack.append(end)
    end_ns[rows] = ends
    depth[rows] = depths
    return n_cut
