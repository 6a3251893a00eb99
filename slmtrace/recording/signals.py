"""Signals while a target runs: it gets those meant for it, and the recorder always finishes its capture."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from types import FrameType, TracebackType
from typing import Any

_FORWARDED = (signal.SIGTERM, signal.SIGHUP)
_HANDLED = (signal.SIGINT, *_FORWARDED)


class SignalRelay:
    """Between enter and exit: SIGTERM and SIGHUP go to the target, a second SIGINT kills it.

    A terminal sends Ctrl-C to the whole foreground group, so the target has it already; a SIGINT that was sent to us
    alone (a service manager, `kill -INT`) is passed on.
    """

    def __init__(self) -> None:
        self.target_pid = 0  # 0: there is none yet
        self.received = 0  # the first signal that asked for an end
        self.received_ns = 0  # when (CLOCK_MONOTONIC)
        self._n_interrupts = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalRelay:
        for number in _HANDLED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self.received_ns = number, time.monotonic_ns()
        if number == signal.SIGINT:
            self._n_interrupts += 1
            if self._n_interrupts > 1:
                number = signal.SIGKILL
            elif _is_in_foreground():
                return
        if self.target_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.target_pid, number)


def _is_in_foreground() -> bool:
    """Say whether a terminal's Ctrl-C reaches our process group, and so the target."""
    try:
        descriptor = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(descriptor)
