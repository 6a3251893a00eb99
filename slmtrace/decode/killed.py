"""The processes of the traced tree that a signal ended, as marks at their end."""

from __future__ import annotations

import signal

import numpy as np

from ..capture.layout import RingType
from ..model.events import MARK_KILLED, EventKind, Events, make_events
from ..model.strings import Strings
from .ring import Ring, Threads, low_half

_SIGNAL_BITS = 0x7F
# The rest are how processes are told to end.
_VIOLENT = (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS)


def mark_killed(ring: Ring, threads: Threads, strings: Strings) -> Events:
    """Mark the end of each process that was killed or that crashed, with the signal in the mark's name."""
    exits = ring.of_type(RingType.EXIT)
    exits = exits.where(low_half(exits.a) == exits.tid)
    numbers = low_half(exits.b) & _SIGNAL_BITS
    is_violent = np.isin(numbers, _VIOLENT)
    exits = exits.where(is_violent)
    names = [strings.intern(MARK_KILLED + signal.Signals(number).name) for number in numbers[is_violent].tolist()]
    return make_events(
        len(exits),
        kind=EventKind.MARK,
        track=threads.tracks_of(exits.tid),
        start_ns=exits.ts_ns,
        end_ns=exits.ts_ns,
        name=np.array(names, np.int32),
    )
