"""Plain hops of the critical path, worked out for all runs of a trace at once.

A hop is plain where the walk (path.py) has nothing to weigh: a thread ran, before that it wanted a CPU, and before that
it slept until a task of the tree woke it which was on a CPU itself. Most of a path may be chains of them. Left to the
walk is whatever is about messages, locks, spins, interrupts, or the bounds of the evidence.
"""

from __future__ import annotations

from array import array
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..model.events import Ints, SmallInts, distinct_times, span_of
from ..model.sched import Out, Sched, WakeContext
from ..model.tracks import NO_TRACK
from .locks import Locks
from .messages import Messages

# On loopback and for local sockets, the sender runs the receiver's softirq: the current task is the real waker.
FOLLOWED = (WakeContext.TASK, WakeContext.NET)


class Hops:
    """What the plain hop before each run is, by row of the scheduler's runs."""

    def __init__(self, sched: Sched, target: Ints, woken_ns: Ints) -> None:
        self.tracks, self.starts_ns = sched.run_track, sched.run_start_ns
        self.target = target  # the run of the waker; negative: there is no plain hop
        self.woken_ns = woken_ns  # when that waker woke the thread
        self._end_ns = sched.run_end_ns.data

    def chain(self, run: int, limit_ns: int) -> tuple[Ints, int]:
        """Return the runs that plain hops lead through from `run` on, to wakeups after a time, and the run after."""
        # Reading single values of views beats numpy.
        target, woken_ns = self.target.data, self.woken_ns.data
        passed = array("q")
        while (waker := target[run]) >= 0 and woken_ns[run] > limit_ns:
            passed.append(run)
            run = waker
        return np.frombuffer(passed, np.int64), run

    def slept_ns(self, run: int) -> int:
        """Return since when a thread slept before a run, where the hop is plain."""
        slept_ns: int = self._end_ns[run - 1]
        return slept_ns


def find_hops(sched: Sched, messages: Messages, locks: Locks) -> Hops:
    """Find the plain hop before each run."""
    run = np.arange(len(sched.run_track))
    before = np.maximum(run - 1, 0)
    slept_ns, start_ns = sched.run_end_ns[before], sched.run_start_ns
    wake = _last_row(sched.wake_track, sched.wake_ns, sched.run_track, start_ns, "right")
    is_plain = (sched.run_track[before] == sched.run_track) & (run > 0) & (wake >= 0)
    is_plain &= np.isin(sched.run_out[before], (Out.SLEEP, Out.DISK)) & (sched.run_start_ns[before] < start_ns)
    is_plain &= ~_is_busy(sched, messages, locks, slept_ns)
    row = np.flatnonzero(is_plain)
    wake = wake[row]
    waker, woken_ns = sched.wake_by[wake], sched.wake_ns[wake]
    is_own_will = np.isin(sched.wake_context[wake], FOLLOWED) & (waker != NO_TRACK) & (waker != sched.run_track[row])
    is_asleep = (slept_ns[row] < woken_ns) & (woken_ns < start_ns[row])
    target = _last_row(sched.run_track, start_ns, waker, woken_ns, "left")
    is_found = is_own_will & is_asleep & (target >= 0) & (sched.run_end_ns[target] >= woken_ns)
    targets, wakes_ns = np.full(len(run), -1, np.int64), np.zeros(len(run), np.int64)
    targets[row[is_found]], wakes_ns[row[is_found]] = target[is_found], woken_ns[is_found]
    return Hops(sched, targets, wakes_ns)


def _is_busy(sched: Sched, messages: Messages, locks: Locks, slept_ns: Ints) -> NDArray[np.bool_]:
    """Say which runs have messages to look at, spins within, or a wait for a lock before."""
    found = np.isin(sched.run_track, messages.receivers())
    for track in locks.spins.tracks():
        low, high = span_of(sched.run_track, track)
        starts_ns, ends_ns = locks.spins.of(track)
        first = np.searchsorted(ends_ns, sched.run_start_ns[low:high], side="right")
        found[low:high] |= np.searchsorted(starts_ns, sched.run_end_ns[low:high]) > first
    for track in locks.waits.tracks():
        low, high = span_of(sched.run_track, track)
        starts_ns, ends_ns = locks.waits.of(track)
        last = np.searchsorted(starts_ns, slept_ns[low:high], side="right") - 1
        found[low:high] |= (last >= 0) & (slept_ns[low:high] < np.asarray(ends_ns)[last])
    return found


def _last_row(tracks: SmallInts, times_ns: Ints, track: SmallInts, ts_ns: Ints, side: Literal["left", "right"]) -> Ints:
    """Return the last row of each track before an instant ("right": or at it), -1 where there is none.

    Rows are sorted by (track, time). Times are counted rather than compared, so that one number holds both.
    """
    moments = distinct_times(times_ns)
    keys, wanted = (thread.astype(np.int64) * (len(moments) + 1) for thread in (tracks, track))
    keys += np.searchsorted(moments, times_ns)
    wanted += np.searchsorted(moments, ts_ns, side=side)
    row = np.searchsorted(keys, wanted) - 1
    is_found = row >= 0
    is_found[is_found] = tracks[row[is_found]] == track[is_found]
    return np.where(is_found, row, -1)
