"""What is said to a collector and what it answers, however it was reached: commands into it, JSON lines out of it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import time
from typing import Any

_EXIT_TIMEOUT_S = 10.0


class CollectorClient:
    """A collector that speaks with us; it ends by itself when it no longer hears us."""

    def __init__(self) -> None:
        self._rest = b""  # read, and not yet a line

    @property
    def is_alive(self) -> bool:
        """Say whether it still runs."""
        raise NotImplementedError

    def describe_exit(self) -> str:
        """Say how it ended, and its last words."""
        raise NotImplementedError

    def error_text(self) -> str:
        """Return the end of what it complained of, on one line."""
        return ""

    def close(self, timeout_s: float) -> None:
        """Say no more, and wait for its end."""
        raise NotImplementedError

    def _descriptor(self) -> int:
        """Return what its answers are read from."""
        raise NotImplementedError

    def _send(self, data: bytes) -> None:
        raise NotImplementedError

    def _hang_up(self) -> None:
        """Let it know that we say no more."""
        raise NotImplementedError

    def ask(self, command: str, timeout_s: float) -> dict[str, Any] | None:
        """Send a command and return the answer; None if there is none."""
        try:
            self._send(command.encode("utf-8", "surrogateescape") + b"\n")
        except OSError:
            return None
        return self.read(timeout_s)

    def read(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next object that it says; None at the time limit, at its end, or if it babbles."""
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._descriptor()], [], [], max(0.0, deadline_s - time.monotonic()))
            try:
                data = os.read(self._descriptor(), 65536) if ready else b""
            except OSError:
                data = b""
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None

    def leave(self) -> None:
        """Say no more and let it end by itself, at the latest before we do."""
        self._hang_up()
        atexit.register(self._close_at_exit)

    def _close_at_exit(self) -> None:
        with contextlib.suppress(KeyboardInterrupt):  # whoever is impatient need not wait: it ends all the same
            self.close(_EXIT_TIMEOUT_S)
