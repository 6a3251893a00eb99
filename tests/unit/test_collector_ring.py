"""The collector's side of the ring, over a file laid out as the kernel lays out a ring buffer."""

from __future__ import annotations

import mmap
import os
import struct

from slmtrace.probes.collector.ring import RECORD_BYTES, Ring

SIZE_BYTES = mmap.PAGESIZE
BUSY = 1 << 31


def fill(descriptor: int, *lengths: int) -> None:
    """Write the heads of records, and where they end."""
    os.pwrite(descriptor, struct.pack("<Q", len(lengths) * RECORD_BYTES), mmap.PAGESIZE)
    for row, length in enumerate(lengths):
        os.pwrite(descriptor, struct.pack("<I", length), 2 * mmap.PAGESIZE + row * RECORD_BYTES)


def test_a_drain_takes_what_is_finished_and_says_what_was_there_and_whether_all_of_it_was() -> None:
    descriptor = os.memfd_create("ring")
    os.ftruncate(descriptor, 2 * mmap.PAGESIZE + 2 * SIZE_BYTES)
    ring, written = Ring(descriptor, SIZE_BYTES), []

    def drain() -> tuple[int, bool]:
        return ring.drain(lambda records: written.append(len(records)))

    nothing = drain()
    fill(descriptor, 8, 8, 8 | BUSY, 8)
    first = drain()
    fill(descriptor, 8, 8, 8, 8)
    second = drain()

    assert [nothing, first, second] == [(0, True), (4 * RECORD_BYTES, False), (2 * RECORD_BYTES, True)]
    assert written == [2 * RECORD_BYTES, 2 * RECORD_BYTES]
    assert ring.peak_bytes == 4 * RECORD_BYTES
