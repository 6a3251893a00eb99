"""Scheduler records to stretches on a CPU, wakeups and forks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..capture.layout import (
    IRQ_HARD_MASK,
    IRQ_SOFTIRQ_MASK,
    IRQ_TIMER,
    NAME_AT_ENROLL,
    SWITCH_IOWAIT,
    SWITCH_NEXT_IN_TREE,
    SWITCH_PREEMPTED,
    SWITCH_PREV_IN_TREE,
    SWITCH_REBUILT,
    RingType,
)
from ..model.events import Ints
from ..model.quality import Issue, Quality
from ..model.sched import Out, Sched, WakeContext
from ..model.tracks import NO_TRACK
from .ring import Ring, Rows, Threads, Words, low_half

# include/linux/sched.h
_TASK_UNINTERRUPTIBLE = 0x2
_TASK_DEAD = 0x80
_TASK_STATES = 0xFFFF
# Softirq vector + 1 to what it means (enum in include/linux/interrupt.h).
_SOFTIRQS = {
    2: WakeContext.TIMER,
    3: WakeContext.NET,
    4: WakeContext.NET,
    5: WakeContext.BLOCK,
    6: WakeContext.BLOCK,
    9: WakeContext.TIMER,
}


def build_sched(ring: Ring, threads: Threads, quality: Quality) -> Sched | None:
    """Pair switches into stretches on a CPU; None if the scheduler was not recorded.

    A stretch whose beginning or end was lost is left out and counted: its time is nobody's rather than a guess.
    """
    switches = ring.of_type(RingType.SWITCH)
    if not len(switches):
        return None
    start_ns, end_ns = _validity(ring, switches)
    track, run_start_ns, run_end_ns, cpu, out = _pair(ring, switches, end_ns, quality)
    rows = threads.tracks_of(track)
    order = np.lexsort((run_start_ns, rows))
    wakes = ring.of_type(RingType.WAKING)
    wakes = wakes.where(threads.tracks_of(low_half(wakes.a)) != NO_TRACK)
    woken = threads.tracks_of(low_half(wakes.a))
    wake_order = np.lexsort((wakes.ts_ns, woken))
    forks = ring.of_type(RingType.FORK)
    forks = forks.where(threads.tracks_of(low_half(forks.a)) != NO_TRACK)
    forked = threads.tracks_of(low_half(forks.a))
    fork_order = np.lexsort((forks.ts_ns, forked))
    return Sched(
        start_ns,
        end_ns,
        run_track=rows[order],
        run_start_ns=run_start_ns[order],
        run_end_ns=run_end_ns[order],
        run_cpu=cpu[order].astype(np.int32),
        run_out=out[order].astype(np.uint8),
        wake_track=woken[wake_order],
        wake_ns=wakes.ts_ns[wake_order],
        wake_by=threads.tracks_of(wakes.tid)[wake_order],
        wake_context=wake_contexts(wakes.b)[wake_order],
        fork_track=forked[fork_order],
        fork_ns=forks.ts_ns[fork_order],
        fork_by=threads.tracks_of(forks.tid)[fork_order],
    )


def wake_contexts(bits: Words) -> NDArray[np.uint8]:
    """Say what each waker was doing: a hardware interrupt may interrupt a softirq, and that a task."""
    context = np.full(len(bits), WakeContext.TASK, np.uint8)
    softirq = bits & np.uint64(IRQ_SOFTIRQ_MASK)
    context[softirq > 0] = WakeContext.SOFTIRQ
    for vector, meaning in _SOFTIRQS.items():
        context[softirq == vector] = meaning
    context[(bits & np.uint64(IRQ_TIMER)) > 0] = WakeContext.TIMER
    context[(bits & np.uint64(IRQ_HARD_MASK)) > 0] = WakeContext.HARDIRQ
    return context


def _validity(ring: Ring, switches: Rows) -> tuple[int, int]:
    """Return since when and until when the scheduler evidence is complete."""
    names = ring.of_type(RingType.NAME)
    enrolled = names.ts_ns[names.b == NAME_AT_ENROLL]
    alive = ring.of_type(RingType.ALIVE).ts_ns
    start_ns = int(enrolled.min() if len(enrolled) else switches.ts_ns.min())
    # What was drained after the last sign of life is complete up to its own end.
    end_ns = max(int(switches.ts_ns.max()), int(alive.max()) if len(alive) else 0)
    return start_ns, end_ns


def _pair(ring: Ring, switches: Rows, end_ns: int, quality: Quality) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Return the stretches on a CPU as (tid, start, end, cpu, out)."""
    tid, ts_ns, is_out, cpu, reason = _transitions(switches)
    quality.note(Issue.REBUILT_SWITCH, int(((switches.b & np.uint64(SWITCH_REBUILT)) > 0).sum()))
    if not len(tid):
        return tid, ts_ns, ts_ns, cpu, reason
    follows_same = np.append(tid[1:] == tid[:-1], False)
    precedes_same = np.append(False, follows_same[:-1])
    next_is_out = np.append(is_out[1:], False) & follows_same
    prev_is_in = np.append(False, ~is_out[:-1]) & precedes_same
    begins = np.flatnonzero(~is_out & next_is_out)
    open_begins = np.flatnonzero(~is_out & ~follows_same)
    first_outs = np.flatnonzero(is_out & ~precedes_same)
    # Whoever was running when it was enrolled has a departure without an arrival.
    enrolled_ns = _enrolled_ns(ring, tid[first_outs])
    early, headless = first_outs[enrolled_ns > 0], first_outs[enrolled_ns == 0]
    early_ns = np.minimum(enrolled_ns[enrolled_ns > 0], ts_ns[early])
    n_lost = int((~is_out & follows_same & ~next_is_out).sum() + (is_out & precedes_same & ~prev_is_in).sum())
    quality.note(Issue.LOST_SWITCH, n_lost + len(headless))
    open_end_ns, open_reason = _open_ends(ring, tid[open_begins], ts_ns[open_begins], end_ns)
    pieces = [
        (tid[begins], ts_ns[begins], ts_ns[begins + 1], cpu[begins], reason[begins + 1]),
        (tid[open_begins], ts_ns[open_begins], open_end_ns, cpu[open_begins], open_reason),
        (tid[early], early_ns, ts_ns[early], cpu[early], reason[early]),
    ]
    run_tid, run_start, run_end, run_cpu, run_out = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return run_tid, run_start, run_end, run_cpu, run_out


def _transitions(switches: Rows) -> tuple[Ints, Ints, NDArray[np.bool_], Ints, Ints]:
    """Return each thread's arrivals on and departures from a CPU, sorted by (tid, time)."""
    leaves = switches.where((switches.d & np.uint64(SWITCH_PREV_IN_TREE)) != 0)
    comes = switches.where((switches.d & np.uint64(SWITCH_NEXT_IN_TREE)) != 0)
    tid = np.concatenate([leaves.tid, low_half(comes.a)])
    ts_ns = np.concatenate([leaves.ts_ns, comes.ts_ns])
    is_out = np.arange(len(tid)) < len(leaves)
    cpu = np.concatenate([leaves.cpu, comes.cpu]).astype(np.int64)
    reason = np.concatenate([_out_reasons(low_half(leaves.b)), np.zeros(len(comes), np.int64)])
    order = np.lexsort((~is_out, ts_ns, tid))
    return tid[order], ts_ns[order], is_out[order], cpu[order], reason[order]


def _out_reasons(bits: Ints) -> Ints:
    state = bits & _TASK_STATES
    reasons: Ints = np.select(
        [
            ((bits & SWITCH_PREEMPTED) > 0) | (state == 0),
            (state & _TASK_DEAD) > 0,
            (bits & SWITCH_IOWAIT) > 0,
            (state & _TASK_UNINTERRUPTIBLE) > 0,
        ],
        [int(Out.PREEMPTED), int(Out.EXIT), int(Out.IOWAIT), int(Out.DISK)],
        int(Out.SLEEP),
    ).astype(np.int64)
    return reasons


def _open_ends(ring: Ring, tids: Ints, starts_ns: Ints, end_ns: int) -> tuple[Ints, Ints]:
    """Return when and why stretches without a departure ended: with their thread, else with the recording."""
    exits = ring.of_type(RingType.EXIT)
    exit_ns_by_tid = dict(zip(exits.tid.tolist(), exits.ts_ns.tolist(), strict=True))
    ends = np.array([exit_ns_by_tid.get(tid, -1) for tid in tids.tolist()], np.int64)
    has_exit = ends >= starts_ns
    reason = np.where(has_exit, int(Out.EXIT), int(Out.OPEN)).astype(np.int64)
    return np.where(has_exit, ends, np.maximum(end_ns, starts_ns)), reason


def _enrolled_ns(ring: Ring, tids: Ints) -> Ints:
    """Return when threads were enrolled, 0 for those that were not."""
    names = ring.of_type(RingType.NAME)
    names = names.where(names.b == NAME_AT_ENROLL)
    ns_by_tid = dict(zip(names.tid.tolist(), names.ts_ns.tolist(), strict=True))
    return np.array([ns_by_tid.get(tid, 0) for tid in tids.tolist()], np.int64)
