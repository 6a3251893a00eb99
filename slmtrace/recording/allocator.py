"""Which allocator the program really has: a command may preload one by itself, as `env LD_PRELOAD=... python` does."""

from __future__ import annotations

import time
from collections import Counter

from ..probes.malloc import LIBC, find_allocator
from ..probes.procfs import find_tree
from ..probes.state import mapped_files

_INTERVAL_S = 0.5
# A process may be seen just before it executes another program; a look takes the lock of its memory map.
_N_LOOKS = 2


class AllocatorWatch:
    """Looks at the files that the processes of a tree have mapped, a few times at each."""

    def __init__(self, pid: int) -> None:
        self.name = LIBC  # the first that one of them has instead
        self._pid = pid
        self._n_looks: Counter[int] = Counter()
        self._next_s = time.monotonic() + _INTERVAL_S

    def poll(self) -> None:
        """Look, when it is time and nothing was found yet."""
        if self.name != LIBC or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + _INTERVAL_S
        for pid in find_tree(self._pid):
            if self._n_looks[pid] < _N_LOOKS and self.name == LIBC:
                self._n_looks[pid] += 1
                self.name = find_allocator({}, mapped_files(pid))
