"""What a run of each BPF program costs: timed by the kernel for a while, because timing costs like a short run."""

from __future__ import annotations

import os
from collections.abc import Callable

from .kernel import enable_statistics

_TIMED_NS = 1_000_000_000

Statistics = Callable[[], "dict[str, tuple[int, int, int]]"]


class Timing:
    """The kernel's timing of BPF programs: on from the start, off after the target's first second."""

    def __init__(self) -> None:
        # It takes CAP_SYS_ADMIN to switch on, which is dropped later, and a close to switch off.
        self._descriptor = enable_statistics()
        self._due_ns = 0
        self.ns_per_run: dict[str, float] = {}

    def begin(self, now_ns: int) -> None:
        """Note that a target begins."""
        self._due_ns = self._due_ns or now_ns + _TIMED_NS

    def end_if_due(self, now_ns: int, statistics: Statistics) -> None:
        """Stop timing when it has gone on for long enough."""
        if self._due_ns and now_ns >= self._due_ns:
            self.end(statistics)

    def end(self, statistics: Statistics) -> None:
        """Take the figures and stop timing; a second time, do nothing."""
        if self._descriptor < 0:
            return
        self.ns_per_run = {name: round(ns / runs, 1) for name, (ns, runs, _) in statistics().items() if runs}
        os.close(self._descriptor)
        self._descriptor = -1
