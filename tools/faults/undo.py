"""Undo what a fault changed, whatever becomes of us: a child reads what to undo, and does it when we close or die.

Each step is told to the child before the change is made, so that there is no moment at which nobody would undo it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

_WAIT_S = 5


class Undo:
    """Steps to undo, last first, when the context ends or this process does."""

    def __enter__(self) -> Undo:
        """Start the child that will undo."""
        self._child = subprocess.Popen(
            [sys.executable, "-m", "tools.faults.undo"],
            stdin=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            # Ctrl-C on the terminal, and a kill of our process group, are not for it.
            start_new_session=True,
        )
        return self

    def write_back(self, path: Path) -> None:
        """Write a small file's present text back."""
        text = path.read_text()
        self._tell("write", str(path), text.partition("[")[2].partition("]")[0] or text)

    def write(self, path: Path, text: str) -> None:
        """Write this text to a file."""
        self._tell("write", str(path), text)

    def kill(self, pid: int) -> None:
        """Kill a process of ours, by its pid and its start, which no later process of that pid shares."""
        self._tell("kill", pid, _start_of(pid))

    def remove_cgroup(self, path: Path) -> None:
        """Move what is in a cgroup back to its parent, and remove it."""
        self._tell("remove_cgroup", str(path))

    def remove_directory(self, path: Path) -> None:
        """Remove a directory that a fault made."""
        self._tell("remove_directory", str(path))

    def run(self, *command: str) -> None:
        """Run a command."""
        self._tell("run", *command)

    def _tell(self, *step: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(step) + "\n")
        self._child.stdin.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let the child undo, and wait until it has."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()


def undo_at_end(lines: TextIO) -> None:
    """Read steps until nobody can send more, then do them, last first; one that fails does not keep back the others."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    steps = [json.loads(line) for line in lines]
    for name, *arguments in reversed(steps):
        try:
            _STEPS[name](*arguments)
        except OSError as error:
            print(f"fault: {name} {arguments[0]}: {error}", file=sys.stderr)


def _write(path: str, text: str) -> None:
    Path(path).write_text(text)


def _kill(pid: int, start: str) -> None:
    if start and _start_of(pid) == start:
        os.kill(pid, signal.SIGKILL)


def _start_of(pid: int) -> str:
    """Return when a process started, in ticks (proc(5), field 22); '' if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def _remove_cgroup(path: str) -> None:
    directory, until_s = Path(path), time.monotonic() + _WAIT_S
    while directory.exists():
        for pid in (directory / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (directory.parent / "cgroup.procs").write_text(pid)
        try:
            directory.rmdir()
        except OSError:  # what dies in it still counts for a moment
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)


def _run(*command: str) -> None:
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL)


def _remove_directory(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)


_STEPS: dict[str, Callable[..., None]] = {
    "write": _write,
    "kill": _kill,
    "remove_cgroup": _remove_cgroup,
    "run": _run,
    "remove_directory": _remove_directory,
}


if __name__ == "__main__":
    undo_at_end(sys.stdin)
