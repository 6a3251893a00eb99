"""The collector as a child process, its complaints kept for error messages."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .collector_client import CollectorClient

_MAX_ERROR_CHARS = 600
# Isolated from the user's environment; the package is found by its path, without its virtual environment's.
_BOOTSTRAP = (
    "import runpy, sys; sys.path.append({root!r}); runpy.run_module('slmtrace.probes.collector', run_name='__main__')"
)


def collector_command(interpreter: Sequence[str], config: dict[str, Any]) -> list[str]:
    """Return the command that runs a collector under an interpreter, given by the words that run that."""
    root = str(Path(__file__).resolve().parents[2])
    return [*interpreter, "-I", "-B", "-c", _BOOTSTRAP.format(root=root), json.dumps(config)]


class CollectorProcess(CollectorClient):
    """A collector of our own; it ends by itself when we do, for then its stdin ends."""

    def __init__(self, interpreter: Sequence[str], config: dict[str, Any]) -> None:
        super().__init__()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            collector_command(interpreter, config),
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

    def error_text(self) -> str:
        """Return the end of what it wrote to stderr, on one line."""
        try:
            size_bytes = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size_bytes - 4 * _MAX_ERROR_CHARS))
            text = " ".join(self._errors.read().decode("utf-8", "replace").split())
        except (OSError, ValueError):
            return ""
        return text[-_MAX_ERROR_CHARS:]

    def close(self, timeout_s: float) -> None:
        """Close its stdin, wait for its end, and kill it if that does not come."""
        assert self._process.stdout is not None
        self._hang_up()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(PermissionError):  # under sudo it is not ours to kill, and ends with its stdin
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()

    def _descriptor(self) -> int:
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def _send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def _hang_up(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
