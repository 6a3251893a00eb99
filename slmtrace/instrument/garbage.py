"""Record Python's garbage collections that take long: the interpreter itself says when each starts and stops."""

from __future__ import annotations

import gc
from time import monotonic_ns

from . import constants as c
from .recorder import recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAME = "|garbage collection"
# The many short ones of the youngest generation cost less than what would record them.
SHORTEST_NS = 100_000

# Collections exclude one another, also between threads.
_start_ns = 0


def install() -> None:
    """Watch the collector."""
    gc.callbacks.append(_note)


def _note(phase: str, info: dict[str, Any]) -> None:
    global _start_ns
    now_ns = monotonic_ns()
    if phase == "start":
        _start_ns = now_ns
    elif now_ns - _start_ns >= SHORTEST_NS:
        recorder.write(c.RANGE, recorder.intern(NAME), _start_ns, now_ns)
