"""Drain the kernel's ring buffer by mapping it: no call per record.

The layout is that of kernel/bpf/ringbuf.c: a page with the consumer's position, a page with the producer's, then the
data mapped twice, so that a run of records never wraps.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import NamedTuple

from ...capture.layout import RING

RECORD_BYTES = RING.record_bytes()
_BUSY = 0x80


class Drained(NamedTuple):
    """What a drain found."""

    n_bytes: int  # the ring held
    is_empty: bool  # nothing was left behind


class Ring:
    """The consumer's side of a ring of fixed-size records."""

    def __init__(self, map_fd: int, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        page = mmap.PAGESIZE
        self._consumer_page = mmap.mmap(map_fd, page)
        self._producer_pages = mmap.mmap(map_fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = ctypes.c_uint64.from_buffer(self._consumer_page)
        self._view = memoryview(self._producer_pages)
        self._positions = self._view[:8].cast("Q")
        self._data = self._view[page:]
        self.peak_bytes = 0

    def drain(self, write: Callable[[memoryview], None]) -> Drained:
        """Pass all finished records to `write` in one piece, release them, and return what was there.

        A record is left behind while the kernel is still filling it or one before it.
        """
        consumed, produced = self._consumer.value, self._positions[0]
        n_bytes = int(produced - consumed)
        if not n_bytes:
            return Drained(0, True)
        self.peak_bytes = max(self.peak_bytes, n_bytes)
        start = consumed & (self._size_bytes - 1)
        # The top byte of a record's length says whether it is still being filled; ask before reading what it holds.
        states = bytes(self._data[start + 3 : start + n_bytes : RECORD_BYTES])
        finished = len(states)
        if max(states) & _BUSY:
            finished = next(index for index, state in enumerate(states) if state & _BUSY)
        if finished:
            write(self._data[start : start + finished * RECORD_BYTES])
            self._consumer.value = consumed + finished * RECORD_BYTES
        return Drained(n_bytes, finished == len(states))
