"""Give the summed time of folded events a place in the running stretches that they were summed over.

A FOLD says: between its first and last event, this thread spent `work_ns` of its own running time in events of one
class. Where exactly is not known (about a millisecond at most is meant), the sum is exact. So the time is laid out in
the running time between first and last that no finer evidence has taken: preemptively, the fold that must be done first
goes first (Jackson's rule), which finds a place for all whenever there is one.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from ..model.events import Ints
from ..model.quality import Issue, Quality
from .timeline import Timeline, overlaps, overlay


def place_folds(
    first_ns: Ints, last_ns: Ints, work_ns: Ints, owner: Ints, free: Timeline, quality: Quality
) -> Timeline:
    """Lay folds (in any order) into the free stretches of their thread; what does not fit is cut and counted."""
    elapsed: Ints = np.concatenate([np.zeros(1, np.int64), np.cumsum(free.end_ns - free.start_ns)])
    release, deadline = (_free_time_before(ts_ns, free, elapsed) for ts_ns in (first_ns, last_ns))
    order = np.argsort(release, kind="stable")
    placed = _schedule(release[order], deadline[order], work_ns[order], owner[order])
    quality.note(Issue.FOLD_OVERFLOW, int(work_ns.sum() - (placed.end_ns - placed.start_ns).sum()))
    row, at = overlaps(placed, elapsed[:-1], elapsed[1:])
    shift_ns = free.start_ns[at] - elapsed[at]
    start_ns, end_ns = np.maximum(placed.start_ns[row], elapsed[at]), np.minimum(placed.end_ns[row], elapsed[at + 1])
    return Timeline(start_ns + shift_ns, end_ns + shift_ns, placed.owner[row])


def _free_time_before(ts_ns: Ints, free: Timeline, elapsed: Ints) -> Ints:
    if not len(free):
        return np.zeros(len(ts_ns), np.int64)
    row = np.searchsorted(free.start_ns, ts_ns, side="right") - 1
    inside = np.clip(ts_ns - free.start_ns[row], 0, free.end_ns[row] - free.start_ns[row])
    return np.where(row >= 0, elapsed[row] + inside, 0)


def _schedule(release: Ints, deadline: Ints, work_ns: Ints, owner: Ints) -> Timeline:
    """Run jobs, sorted by release, on one machine, earliest deadline first, preemptively."""
    end = np.minimum(release + work_ns, deadline)
    is_alone = _is_alone(release, end)
    alone = is_alone & (end > release)
    others = _by_deadline(*(column[~is_alone] for column in (release, deadline, work_ns, owner)))
    return overlay(Timeline(release[alone], end[alone], owner[alone]), others)


def _is_alone(release: Ints, end: Ints) -> NDArray[np.bool_]:
    """Say of each job whether all before it are done when it is released, and it when the next one is."""
    done = np.cumsum(end - release)
    # Until when the machine is busy, at most: from some release on without a pause.
    busy_until = done + np.maximum.accumulate(end - done)
    is_crowded = release[1:] < busy_until[:-1]
    is_alone = np.ones(len(release), np.bool_)
    is_alone[:-1] &= ~is_crowded
    is_alone[1:] &= ~is_crowded
    return is_alone


def _by_deadline(release: Ints, deadline: Ints, work_ns: Ints, owner: Ints) -> Timeline:
    jobs = list(zip(*(column.tolist() for column in (release, deadline, work_ns, owner)), strict=True))
    starts: list[int] = []
    ends: list[int] = []
    owners: list[int] = []
    ready: list[list[int]] = []  # [deadline, position, remaining, owner]
    now, upcoming = 0, 0
    while ready or upcoming < len(jobs):
        if not ready:
            now = max(now, jobs[upcoming][0])
        while upcoming < len(jobs) and jobs[upcoming][0] <= now:
            _, due, work, event = jobs[upcoming]
            heapq.heappush(ready, [due, upcoming, work, event])
            upcoming += 1
        job = ready[0]
        until = min(now + job[2], job[0])
        if upcoming < len(jobs):
            until = min(until, max(jobs[upcoming][0], now))
        if until > now:
            starts.append(now)
            ends.append(until)
            owners.append(job[3])
            job[2] -= until - now
            now = until
        if job[2] <= 0 or now >= job[0]:
            heapq.heappop(ready)
    return Timeline(np.array(starts, np.int64), np.array(ends, np.int64), np.array(owners, np.int64))
