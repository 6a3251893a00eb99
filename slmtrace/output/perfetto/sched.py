"""Scheduler evidence as ftrace events, from which Perfetto makes CPU tracks and thread states.

Only threads of the traced tree are known: the CPU time of all others shows as idle.
"""

from __future__ import annotations

import numpy as np

from ...model.events import Ints, span_of
from ...model.sched import Out, Sched, WakeContext
from ...model.trace import Trace
from ...model.tracks import NO_TRACK
from . import wire
from .emit import EventWriter

_FIRST_SEQUENCE = 100
# TracePacket and FtraceEventBundle
_SEQUENCE_ID, _INTERNED_DATA, _SEQUENCE_FLAGS, _FTRACE_EVENTS, _CPU, _EVENT = 10, 12, 13, 1, 1, 2
# InternedData.kernel_symbols, InternedString
_KERNEL_SYMBOLS, _IID, _TEXT = 26, 1, 2
# FtraceEvent and its kinds
_TIMESTAMP, _PID, _COMMON_FLAGS, _SWITCH, _BLOCKED_REASON, _WAKING = 1, 2, 5, 4, 18, 20
_PRIORITY = 120  # the default of the fair class; the real one is not recorded
_IDLE = 0
# prev_state as the tracepoint sched_switch encodes it since Linux 4.14 (include/trace/events/sched.h).
_RUNNABLE, _SLEEPING, _UNINTERRUPTIBLE, _DEAD, _PREEMPTED = 0, 1, 2, 0x10, 0x100
_PREV_STATE = {
    Out.PREEMPTED: _PREEMPTED,
    Out.SLEEP: _SLEEPING,
    Out.DISK: _UNINTERRUPTIBLE,
    Out.IOWAIT: _UNINTERRUPTIBLE,
    Out.EXIT: _DEAD,
    Out.OPEN: _RUNNABLE,  # nothing is known of what follows
}
_TRACE_FLAG_HARDIRQ, _TRACE_FLAG_SOFTIRQ = 0x08, 0x10  # include/linux/trace_events.h
_IRQ_FLAGS = {
    WakeContext.TASK: 0,
    WakeContext.SOFTIRQ: _TRACE_FLAG_SOFTIRQ,
    WakeContext.TIMER: _TRACE_FLAG_HARDIRQ,
    WakeContext.HARDIRQ: _TRACE_FLAG_HARDIRQ,
    WakeContext.BLOCK: _TRACE_FLAG_SOFTIRQ,
    WakeContext.NET: _TRACE_FLAG_SOFTIRQ,
}


def write_sched(writer: EventWriter, trace: Trace) -> int:
    """Write one bundle a CPU, and return how many stretches overlapped another on their CPU and were cut."""
    sched = trace.sched
    if sched.is_empty:
        return 0
    tid = np.array([trace.tracks[row].tid for row in range(len(trace.tracks))], np.int64)
    wake_cpu = _wake_cpus(sched)
    n_cut = 0
    for cpu in np.unique(sched.run_cpu).tolist():
        rows = np.flatnonzero(sched.run_cpu == cpu)
        rows = rows[np.argsort(sched.run_start_ns[rows], kind="stable")]
        # A thread wakes before it is switched in, and the reason of its wait follows its switching out: so in the file.
        events = _wakings(writer, sched, tid, np.flatnonzero(wake_cpu == cpu), cpu)
        switches, cut = _switches(writer, sched, tid, rows)
        events += switches + _io_waits(writer, sched, tid, rows)
        n_cut += cut
        bundle = wire.encode_varint(_CPU << 3) + wire.encode_varint(cpu) + events
        writer.raw_packet(_sequence_state(cpu) + wire.blob(_FTRACE_EVENTS, bundle))
    return n_cut


def _switches(writer: EventWriter, sched: Sched, tid: Ints, rows: Ints) -> tuple[bytes, int]:
    """Encode a CPU's switches: into each stretch, and out of it unless the next one follows at once."""
    start = sched.run_start_ns[rows]
    next_start = np.append(start[1:], np.iinfo(np.int64).max)
    end = np.minimum(sched.run_end_ns[rows], next_start)
    n_cut = int((end < sched.run_end_ns[rows]).sum())
    who = tid[sched.run_track[rows]]
    state_by_out = np.zeros(256, np.int64)
    for out, encoded in _PREV_STATE.items():
        state_by_out[out] = encoded
    state = state_by_out[sched.run_out[rows]]
    # Back to back, one switch does both: out of the stretch before and into this one.
    follows = np.append(False, end[:-1] == start[1:])
    went_idle = np.append(~follows[1:], True)
    previous = np.where(follows, np.roll(who, 1), _IDLE)
    previous_state = np.where(follows, np.roll(state, 1), _RUNNABLE)
    ts = np.concatenate([start, end[went_idle]])
    order = np.argsort(ts, kind="stable")
    columns = {
        "ts": ts,
        "prev": np.concatenate([previous, who[went_idle]]),
        "state": np.concatenate([previous_state, state[went_idle]]),
        "next": np.concatenate([who, np.full(int(went_idle.sum()), _IDLE)]),
    }
    ordered = {name: column[order] for name, column in columns.items()}
    switch = wire.message(
        _SWITCH,
        wire.integer(2, ordered["prev"]),
        wire.integer(3, _PRIORITY),
        wire.integer(4, ordered["state"]),
        wire.integer(6, ordered["next"]),
        wire.integer(7, _PRIORITY),
    )
    return _events(writer, ordered["ts"], ordered["prev"], switch), n_cut


def _wakings(writer: EventWriter, sched: Sched, tid: Ints, rows: Ints, cpu: int) -> bytes:
    rows = rows[np.argsort(sched.wake_ns[rows], kind="stable")]
    by = sched.wake_by[rows]
    waker = np.where(by == NO_TRACK, _IDLE, tid[np.maximum(by, 0)])
    flags_by_context = np.zeros(256, np.int64)
    for context, irq_flags in _IRQ_FLAGS.items():
        flags_by_context[context] = irq_flags
    waking = wire.message(
        _WAKING,
        wire.integer(2, tid[sched.wake_track[rows]]),
        wire.integer(3, _PRIORITY),
        wire.integer(5, cpu),
    )
    flags = wire.integer(_COMMON_FLAGS, flags_by_context[sched.wake_context[rows]])
    return _events(writer, sched.wake_ns[rows], waker, flags + waking)


def _io_waits(writer: EventWriter, sched: Sched, tid: Ints, rows: Ints) -> bytes:
    """Say which uninterruptible waits were for block I/O."""
    rows = rows[sched.run_out[rows] == Out.IOWAIT]
    who = tid[sched.run_track[rows]]
    reason = wire.message(_BLOCKED_REASON, wire.integer(1, who), wire.integer(2, 1), wire.integer(3, 1))
    return _events(writer, sched.run_end_ns[rows], who, reason)


def _sequence_state(cpu: int) -> bytes:
    """Begin a CPU's sequence, with the one kernel symbol that its events refer to: what sets task_struct.in_iowait."""
    symbol = wire.blob(_KERNEL_SYMBOLS, bytes([_IID << 3, 1]) + wire.blob(_TEXT, b"io_schedule"))
    numbers = wire.integer(_SEQUENCE_ID, _FIRST_SEQUENCE + cpu) + wire.integer(_SEQUENCE_FLAGS, 1 | 2)
    return next(wire.encode(numbers, 1)) + wire.blob(_INTERNED_DATA, symbol)


def _events(writer: EventWriter, ts_ns: Ints, pid: Ints, event: wire.Parts) -> bytes:
    header = wire.integer(_TIMESTAMP, writer.times(ts_ns)) + wire.integer(_PID, pid)
    return b"".join(wire.encode(wire.message(_EVENT, header, event), len(ts_ns)))


def _wake_cpus(sched: Sched) -> Ints:
    """Return the CPU on which each woken thread ran next, or that of its last stretch."""
    # Stretches and wakeups are both sorted by (track, time): one search per track finds the stretch that follows.
    cpu = np.zeros(len(sched.wake_ns), np.int64)
    for track in np.unique(sched.wake_track).tolist():
        wakes = slice(*span_of(sched.wake_track, track))
        first, last = span_of(sched.run_track, track)
        if last > first:
            following = first + np.searchsorted(sched.run_start_ns[first:last], sched.wake_ns[wakes])
            cpu[wakes] = sched.run_cpu[np.minimum(following, last - 1)]
        else:
            cpu[wakes] = sched.run_cpu[0]
    return cpu
