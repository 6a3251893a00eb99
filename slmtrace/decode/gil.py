"""Which futex calls were about Python's global interpreter lock: those inside their process's runtime state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..capture.layout import RingType
from .ring import Ring, Rows, low_half


def is_about_gil(ring: Ring, calls: Rows, pids: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Say of each futex call whether its address lies in the runtime state of its process.

    A process that was forked and never became another program has its parent's addresses.
    """
    spans = _spans_by_pid(ring)
    parents = _parents(ring)
    found = np.zeros(len(calls), np.bool_)
    for pid in np.unique(pids).tolist():
        mine = pids == pid
        for start, end in _spans_of(pid, spans, parents):
            found[mine] |= (calls.c[mine] >= start) & (calls.c[mine] < end)
    return found


def _spans_by_pid(ring: Ring) -> dict[int, list[tuple[int, int]]]:
    rows = ring.of_type(RingType.PYTHON)
    spans: dict[int, list[tuple[int, int]]] = {}
    for pid, address, size_bytes in zip(rows.tid.tolist(), rows.a.tolist(), rows.b.tolist(), strict=True):
        spans.setdefault(pid, []).append((address, min(address + size_bytes, (1 << 64) - 1)))
    return spans


def _parents(ring: Ring) -> dict[int, int]:
    """Return the parent of each forked process by its pid."""
    forks = ring.of_type(RingType.FORK)
    children, parents = low_half(forks.b), low_half(forks.c)
    is_process = children != parents
    return dict(zip(children[is_process].tolist(), parents[is_process].tolist(), strict=True))


def _spans_of(pid: int, spans: dict[int, list[tuple[int, int]]], parents: dict[int, int]) -> list[tuple[int, int]]:
    """Return the spans of a process, else those of its nearest ancestor that has some."""
    seen: set[int] = set()
    while pid not in spans and pid in parents and pid not in seen:
        seen.add(pid)
        pid = parents[pid]
    return spans.get(pid, [])
