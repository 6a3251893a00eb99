"""Waits for a CPU that the cgroup's quota caused: the CPU was there, and the cgroup's account of throttling grew.

The kernel adds to that account when it lets a cgroup run again (kernel/sched/fair.c, unthrottle_cfs_rq), so a wait that
was throttling ends with a growth of about its own length. The recorder reads the account every 100 ms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..model.events import Ints, span_of
from ..model.trace import Trace
from .path import Steps
from .rules import State

THROTTLED_COUNTER = "cgroup throttled"
# Quotas are given out every period of 100 ms by default; what is shorter than a tick cannot be told from contention.
_SHORTEST_NS = 1_000_000
# How late after its end a wait may show in the account.
_LATEST_NS = 100_000_000
# The account starts when the last task of the cgroup has left the CPU, a little after the waiter.
_COVERED = 0.8
_OWN_USE = 0.2


@dataclass(frozen=True, slots=True)
class Throttling:
    """The cgroup's account of throttling, and who ran where meanwhile."""

    trace: Trace
    ts_ns: Ints  # when the account was seen to grow
    total_ns: Ints

    def name(self, steps: Steps) -> Steps:
        """Return the steps, those that waited for the quota as THROTTLED."""
        is_long = (steps.state == State.RUNNABLE) & (steps.end_ns - steps.start_ns >= _SHORTEST_NS)
        waits = np.flatnonzero(is_long) if len(self.ts_ns) else np.empty(0, np.intp)
        columns = (steps.track[waits], steps.start_ns[waits], steps.end_ns[waits])
        throttled = [self._is_throttled(*wait) for wait in zip(*(column.tolist() for column in columns), strict=True)]
        state = steps.state.copy()
        state[waits[np.array(throttled, np.bool_)]] = State.THROTTLED
        return replace(steps, state=state)

    def _is_throttled(self, track: int, start_ns: int, end_ns: int) -> bool:
        dur_ns = end_ns - start_ns
        growth_ns = self._total_at(end_ns + _LATEST_NS) - self._total_at(start_ns)
        return growth_ns >= _COVERED * dur_ns and self._tree_ns(track, start_ns, end_ns) <= _OWN_USE * dur_ns

    def _total_at(self, ts_ns: int) -> int:
        row = int(np.searchsorted(self.ts_ns, ts_ns, side="right")) - 1
        return int(self.total_ns[max(row, 0)])

    def _tree_ns(self, track: int, start_ns: int, end_ns: int) -> int:
        """Return how long the tree used the CPU that the waiter got in the end."""
        sched = self.trace.sched
        low, high = span_of(sched.run_track, track)
        row = low + int(np.searchsorted(sched.run_start_ns[low:high], end_ns))
        if row >= high:
            return 0
        there = sched.run_cpu == sched.run_cpu[row]
        overlap = np.minimum(sched.run_end_ns, end_ns) - np.maximum(sched.run_start_ns, start_ns)
        return int(np.maximum(overlap[there], 0).sum())


def find_throttling(trace: Trace) -> Throttling:
    """Return the account of throttling; it is empty where there is none, and where it never grew."""
    for series in trace.counters:
        if series.name == THROTTLED_COUNTER and len(series.ts_ns) > 1:
            return Throttling(trace, series.ts_ns, series.value * 1_000)
    return Throttling(trace, np.empty(0, np.int64), np.empty(0, np.int64))
