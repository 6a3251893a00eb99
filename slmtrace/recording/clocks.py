"""Write raw/clock.bin: what the other clocks read, bracketed by CLOCK_MONOTONIC, at the start and the end."""

from __future__ import annotations

import os
import threading
import time

from ..capture.directory import Capture
from ..capture.layout import ClockId, SlotKind
from ..probes.slotlog import SlotLog

# The tightest bracket of this many bounds the error best (Cristian, "Probabilistic clock synchronization").
_ATTEMPTS = 20


class ClockLog:
    """The capture's log of clock snapshots."""

    def __init__(self, capture: Capture) -> None:
        self._log = SlotLog(capture.raw / "clock.bin", "clock", pid=os.getpid())

    def snapshot(self) -> None:
        """Read every other clock once."""
        for clock in (ClockId.REALTIME, ClockId.BOOTTIME):
            before_ns, value_ns, after_ns = _read_bracketed(clock)
            tid = threading.get_native_id()
            self._log.append(SlotKind.CLOCK, before_ns, after_ns, a=value_ns, tid=tid, name=int(clock))
        self._log.flush()

    def books(self) -> dict[str, object]:
        """Return the log's line of the ledger."""
        lost = {"log_write": self._log.lost} if self._log.lost else {}
        return {
            "source": "clock",
            "seen": self._log.written + self._log.lost,
            "written": self._log.written,
            "lost": lost,
        }

    def close(self) -> None:
        """Close the log."""
        self._log.close()


def _read_bracketed(clock: ClockId) -> tuple[int, int, int]:
    """Return (before, value, after) of the tightest attempt."""
    attempts = []
    for _ in range(_ATTEMPTS):
        before_ns = time.monotonic_ns()
        value_ns = time.clock_gettime_ns(int(clock))
        attempts.append((before_ns, value_ns, time.monotonic_ns()))
    return min(attempts, key=lambda attempt: attempt[2] - attempt[0])
