"""The collector as a child process: JSON lines out of it, commands into it, its complaints kept for error messages."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_EXIT_TIMEOUT_S = 10.0
_MAX_ERROR_CHARS = 600
# Isolated from the user's environment; the package is found by its path, without its virtual environment's.
_BOOTSTRAP = (
    "import runpy, sys; sys.path.append({root!r}); runpy.run_module('slmtrace.probes.collector', run_name='__main__')"
)


class CollectorProcess:
    """A collector, run by the words of a command; it ends by itself when we do, for then its stdin ends."""

    def __init__(self, interpreter: Sequence[str], config: dict[str, Any]) -> None:
        root = str(Path(__file__).resolve().parents[2])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._rest = b""
        self._process = subprocess.Popen(
            [*interpreter, "-I", "-B", "-c", _BOOTSTRAP.format(root=root), json.dumps(config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # A Ctrl-C at the terminal is for the target; the recorder decides what it means for us.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Return the collector's process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Say whether it still runs."""
        return self._process.poll() is None

    def describe_exit(self) -> str:
        """Say how it ended, and its last words."""
        code = self._process.poll()
        if code is None:
            return "still running"
        text = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"{text}: {words}" if (words := self.error_text()) else text

    def ask(self, command: str, timeout_s: float) -> dict[str, Any] | None:
        """Send a command and return the answer; None if there is none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(command.encode("utf-8", "surrogateescape") + b"\n")
            self._process.stdin.flush()
        except OSError:
            return None
        return self.read(timeout_s)

    def read(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next object that it says; None at the time limit, at its end, or if it babbles."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))
            data = os.read(descriptor, 65536) if ready else b""
            if not data:
                return None
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            answer = json.loads(line)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None

    def close(self, timeout_s: float) -> None:
        """Close its stdin, wait for its end, and kill it if that does not come."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError):  # under sudo it is not ours to kill, and ends with its stdin
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()

    def leave(self) -> None:
        """Close its stdin and let it end by itself, at the latest before we do."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        atexit.register(self._close_at_exit)

    def _close_at_exit(self) -> None:
        with contextlib.suppress(KeyboardInterrupt):  # whoever is impatient need not wait: it ends all the same
            self.close(_EXIT_TIMEOUT_S)

    def error_text(self) -> str:
        """Return the end of what it wrote to stderr, on one line."""
        try:
            size_bytes = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size_bytes - 4 * _MAX_ERROR_CHARS))
            text = " ".join(self._errors.read().decode("utf-8", "replace").split())
        except (OSError, ValueError):
            return ""
        return text[-_MAX_ERROR_CHARS:]
