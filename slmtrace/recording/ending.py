"""When and how a target that would go on is asked to end: --until."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import time
from dataclasses import dataclass

import psutil

from ..errors import UsageError
from .tail import Seen

# Long enough for an engine to shut its workers down; what is still there then is killed.
GRACE_S = 10.0
# Of a target whose time is over; a clean end is not worth more of what is kept by ending it.
_LATE_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class Until:
    """What ends a recording before the target ends: so many first tokens or answered requests (0: none), or a time."""

    n_first_tokens: int = 0
    n_requests: int = 0
    deadline_s: float = math.inf  # CLOCK_MONOTONIC

    def is_reached(self, seen: Seen, now_s: float) -> bool:
        """Say whether the target has done what was asked, or had its time."""
        return bool(
            now_s >= self.deadline_s
            or (self.n_first_tokens and seen.n_first_tokens >= self.n_first_tokens)
            or (self.n_requests and seen.n_ended >= self.n_requests)
        )

    def shortfall(self, seen: Seen) -> str:
        """Return how far a target came that ended before it had done what was asked; '': it had done it."""
        if seen.n_ended < self.n_requests:
            return f"it had answered {seen.n_ended} of {self.n_requests} requests"
        return "it had delivered no first token" if seen.n_first_tokens < self.n_first_tokens else ""


def parse_until(text: str) -> Until:
    """Read "exit", "first-token" or "N-requests".

    Raises:
        UsageError: it is none of these.
    """
    if text == "exit":
        return Until()
    if text == "first-token":
        return Until(n_first_tokens=1)
    if match := re.fullmatch(r"([1-9]\d{0,8})-requests?", text):
        return Until(n_requests=int(match[1]))
    raise UsageError(f"--until {text} means nothing", hint="use exit, first-token or N-requests, such as 3-requests")


class Ending:
    """Ends the target: SIGTERM to it, and after a grace period SIGKILL to it and what it started."""

    def __init__(self, pid: int, until: Until) -> None:
        self._pid = pid
        self._until = until
        self._kill_at_s = 0.0

    @property
    def is_wanted(self) -> bool:
        """Say whether anything but the target's own end can end the recording."""
        return self._until != Until()

    @property
    def has_begun(self) -> bool:
        """Say whether the target was asked to end."""
        return self._kill_at_s > 0

    def consider(self, seen: Seen) -> None:
        """Take the next step, if it is time for one."""
        now = time.monotonic()
        if not self.has_begun:
            if self._until.is_reached(seen, now):
                os.kill(self._pid, signal.SIGTERM)
                self._kill_at_s = now + (_LATE_GRACE_S if now >= self._until.deadline_s else GRACE_S)
        elif now >= self._kill_at_s:
            self._kill_at_s = now + GRACE_S
            _kill_tree(self._pid)


def _kill_tree(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        target = psutil.Process(pid)
        for process in (*target.children(recursive=True), target):
            with contextlib.suppress(psutil.Error):
                process.kill()
