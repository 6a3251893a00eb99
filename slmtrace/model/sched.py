"""What the scheduler did: stretches on a CPU, wakeups and forks, as columns sorted by (track, time)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .events import Ints, SmallInts


class Out(enum.IntEnum):
    """Why a stretch on a CPU ended."""

    PREEMPTED = 0  # still runnable
    SLEEP = 1  # interruptible wait
    DISK = 2  # uninterruptible wait, not for block I/O
    IOWAIT = 3  # wait for block I/O (task_struct.in_iowait)
    EXIT = 4
    OPEN = 5  # the recording ended first, or records were lost


class WakeContext(enum.IntEnum):
    """What the waker was doing: a task that wakes by its own will, or an interrupt that borrowed a task."""

    TASK = 0
    SOFTIRQ = 1
    TIMER = 2
    HARDIRQ = 3
    BLOCK = 4  # the block softirq: an I/O completed
    NET = 5  # the network softirq: a packet came (on loopback the task is the sender)


@dataclass(frozen=True, slots=True)
class Sched:
    """Scheduler evidence of the threads of the tree, valid between `start_ns` and `end_ns`; empty without eBPF."""

    start_ns: int
    end_ns: int
    # Stretches on a CPU, sorted by (track, start).
    run_track: SmallInts
    run_start_ns: Ints
    run_end_ns: Ints
    run_cpu: SmallInts
    run_out: NDArray[np.uint8]  # Out
    # Wakeups, sorted by (track, time): `wake_track` was woken by `wake_by`, NO_TRACK if not in the tree.
    wake_track: SmallInts
    wake_ns: Ints
    wake_by: SmallInts
    wake_context: NDArray[np.uint8]  # WakeContext
    # New threads, sorted by track.
    fork_track: SmallInts
    fork_ns: Ints
    fork_by: SmallInts

    @property
    def is_empty(self) -> bool:
        """Say whether there is no scheduler evidence at all."""
        return len(self.run_track) == 0


def empty_sched() -> Sched:
    """Return scheduler evidence of nothing."""
    ints, small, octets = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.uint8)
    return Sched(0, 0, small, ints, ints, small, octets, small, ints, small, octets, small, ints, small)
