"""A time at which work of our own is given up: preparations and explanations that nobody else would end."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ..errors import SlmtraceError


class OutOfTime(SlmtraceError):
    """The time for it was over before it was done."""


@contextmanager
def ended_at(deadline_s: float) -> Iterator[None]:
    """Raise OutOfTime in the body at this time (CLOCK_MONOTONIC); outside the main thread only before it.

    A program that subprocess.run waits for in the body is killed then.
    """
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise _out_of_time()
    if math.isinf(left_s) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise _out_of_time()

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, left_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _out_of_time() -> OutOfTime:
    return OutOfTime("there was not enough time", hint="give it more")
