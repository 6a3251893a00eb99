"""Give the summed time of folded events a place in the running stretches that they were summed over.

A FOLD says: between its first and last event, this thread spent `work_ns` of its own running time in events of one
class. Where exactly is not known (about a millisecond at most is meant), the sum is exact. So the time is laid out in
the running time between first and last that no finer evidence has taken: preemptively, the fold that must be done first
goes first (Jackson's rule), which finds a place for all whenever there is one.
"""

from __future__ import annotations

import heapq

import numpy as np

from ..model.events import Ints, distinct_times
from ..model.quality import Issue, Quality
from .timeline import Timeline, empty_timeline


def place_folds(
    first_ns: Ints, last_ns: Ints, work_ns: Ints, owner: Ints, free: tuple[Ints, Ints], quality: Quality
) -> Timeline:
    """Lay folds (in any order) into the free stretches of their thread; what does not fit is cut and counted."""
    free_start, free_end = free
    if not len(first_ns) or not len(free_start):
        quality.note(Issue.FOLD_OVERFLOW, int(work_ns.sum()))
        return empty_timeline()
    elapsed: Ints = np.concatenate([np.zeros(1, np.int64), np.cumsum(free_end - free_start)])
    release = _free_time_before(first_ns, free_start, free_end, elapsed)
    deadline = _free_time_before(last_ns, free_start, free_end, elapsed)
    starts, ends, owners, cut_ns = _schedule(release, deadline, work_ns, owner)
    quality.note(Issue.FOLD_OVERFLOW, cut_ns)
    return _to_clock(starts, ends, owners, free_start, elapsed)


def _free_time_before(ts_ns: Ints, free_start: Ints, free_end: Ints, elapsed: Ints) -> Ints:
    row = np.searchsorted(free_start, ts_ns, side="right") - 1
    inside = np.clip(ts_ns - free_start[row], 0, free_end[row] - free_start[row])
    return np.where(row >= 0, elapsed[row] + inside, 0)


def _schedule(release: Ints, deadline: Ints, work_ns: Ints, owner: Ints) -> tuple[list[int], list[int], list[int], int]:
    """Run the jobs on one machine, earliest deadline first, preemptively."""
    order = np.argsort(release, kind="stable")
    jobs = list(zip(*(column[order].tolist() for column in (release, deadline, work_ns, owner)), strict=True))
    starts: list[int] = []
    ends: list[int] = []
    owners: list[int] = []
    ready: list[list[int]] = []  # [deadline, position, remaining, owner]
    now, cut_ns, upcoming = 0, 0, 0
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
            cut_ns += max(job[2], 0)
            heapq.heappop(ready)
    return starts, ends, owners, cut_ns


def _to_clock(starts: list[int], ends: list[int], owners: list[int], free_start: Ints, elapsed: Ints) -> Timeline:
    if not starts:
        return empty_timeline()
    placed = Timeline(np.array(starts, np.int64), np.array(ends, np.int64), np.array(owners, np.int64))
    bounds: Ints = distinct_times(np.concatenate([placed.start_ns, placed.end_ns, elapsed]))
    owner = placed.at(bounds[:-1])
    used = owner >= 0
    begin, finish, owner = bounds[:-1][used], bounds[1:][used], owner[used]
    row = np.searchsorted(elapsed, begin, side="right") - 1
    start_ns = free_start[row] + (begin - elapsed[row])
    return Timeline(start_ns, start_ns + (finish - begin), owner)
