"""Where CPython keeps its runtime state in each process: the interpreter's lock is in it (CPython, pycore_runtime.h).

Whoever waits on a futex in there waits for that lock: every other lock of a Python program is on the heap.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .elf import dynamic_symbols, first_address

_SYMBOL = "_PyRuntime"
_PROGRAMS = ("python", "libpython")
# A program is looked at until it has mapped its libraries, or for so long.
_PATIENCE_S = 2.0


class Runtime(NamedTuple):
    """A process's runtime state."""

    address: int
    size_bytes: int


class _Build(NamedTuple):
    """Where a file's state is, from its first byte on."""

    offset: int
    size_bytes: int


class RuntimeFinder:
    """Look at each new program until it shows its runtime state, and tell of it once."""

    def __init__(self, tell: Callable[[int, Runtime], None]) -> None:
        self._tell = tell
        self._deadline_s_by_pid: dict[int, float] = {}
        self._builds: dict[str, _Build | None] = {}

    def add(self, pid: int) -> None:
        """Look at this process from now on."""
        self._deadline_s_by_pid[pid] = time.monotonic() + _PATIENCE_S

    def work(self) -> None:
        """Look once at each process that is still to be found."""
        now_s = time.monotonic()
        for pid, deadline_s in list(self._deadline_s_by_pid.items()):
            runtime = self._find(pid)
            if runtime is not None:
                self._tell(pid, runtime)
            if runtime is not None or now_s > deadline_s:
                del self._deadline_s_by_pid[pid]

    def _find(self, pid: int) -> Runtime | None:
        for path, start in _first_mappings(pid).items():
            if path not in self._builds:
                self._builds[path] = _read_build(pid, path)
            build = self._builds[path]
            if build is not None:
                return Runtime(start + build.offset, build.size_bytes)
        return None


def _first_mappings(pid: int) -> dict[str, int]:
    """Return where the first byte of each Python of a process is mapped, by path."""
    found: dict[str, int] = {}
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return found
    for fields in (line.split(None, 5) for line in lines):
        if len(fields) == 6 and int(fields[2], 16) == 0 and Path(fields[5]).name.startswith(_PROGRAMS):
            found.setdefault(fields[5], int(fields[0].partition("-")[0], 16))
    return found


def _read_build(pid: int, path: str) -> _Build | None:
    try:
        # Through the process's own root, for it may live in a container.
        image = Path(f"/proc/{pid}/root{path}").read_bytes()
        symbol = dynamic_symbols(image).get(_SYMBOL)
        return None if symbol is None else _Build(symbol.address - first_address(image), symbol.size_bytes)
    except (OSError, ValueError, struct.error, IndexError):
        return None
