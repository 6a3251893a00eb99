"""Say on a terminal what a recording waits for; say nothing where stderr is not one."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from ..output.plain import plain
from .tail import Seen

_REFRESH_S = 0.25


class Progress:
    """One line, overwritten in place. The target may write to the same terminal, so the cursor waits at column 0."""

    def __init__(self, stream: TextIO | None = None, n_requests: int = 0) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._is_shown = self._stream.isatty()
        self._n_requests = n_requests
        self._begun = time.monotonic()
        self._next_s = 0.0
        self._is_dirty = False

    def say(self, text: str) -> None:
        """Show a text now."""
        if self._is_shown:
            elapsed_s = time.monotonic() - self._begun
            line = f"slmtrace: {plain(text)} ... {elapsed_s:.1f} s"[: shutil.get_terminal_size().columns - 1]
            self._stream.write(f"\r\x1b[2K{line}\r")
            self._stream.flush()
            self._is_dirty = True

    def is_due(self) -> bool:
        """Say whether it is time to show something again: a few times a second, and never without a terminal."""
        return self._is_shown and time.monotonic() >= self._next_s

    def show(self, seen: Seen) -> None:
        """Show what the target is doing, if it is time for it."""
        if self.is_due():
            self._next_s = time.monotonic() + _REFRESH_S
            self.say(describe(seen, self._n_requests))

    def clear(self) -> None:
        """Take the line away."""
        if self._is_dirty:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
            self._is_dirty = False


def describe(seen: Seen, n_requests: int) -> str:
    """Return what the target is doing, in a few words."""
    if seen.n_started > seen.n_ended:
        number = f"{seen.n_started} of {n_requests}" if n_requests else str(seen.n_started)
        return f"request {number}"
    if seen.n_ended:
        return f"{seen.n_ended} requests served"
    if seen.is_ready:
        return "ready, waiting for a request"
    return f"loading: {seen.doing}" if seen.doing else "starting the target"
