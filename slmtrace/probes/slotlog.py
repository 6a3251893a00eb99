"""Write a SLOT raw log from the recorder's own process: strings and records. Standard library only."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

from ..capture import rawlog
from ..capture.layout import HEADER_BYTES, LOST_OFFSET, SLOT, TEXT_BYTES, SlotKind

FLUSH_INTERVAL_NS = 200_000_000  # a crash loses at most 250 ms; the caller's own period takes the rest
FLUSH_BYTES = 64 << 10

_RECORD = struct.Struct(SLOT.pack_format())
_TEXT = struct.Struct(f"<{TEXT_BYTES}sIHH")


class SlotLog:
    """A raw log that one thread fills, buffered for at most 200 ms.

    A full disk never raises here: what could not be written is counted, in `lost` and in the log's header.
    """

    def __init__(self, path: Path, source: str, **facts: Any) -> None:
        """Create the log at `path`; `facts` go into its header."""
        self.written = 0  # records, texts included
        self.lost = 0
        self._descriptor = rawlog.create(path, rawlog.encode_header(source, SLOT, **facts))
        self._buffer = bytearray()
        self._flushed_ns = time.monotonic_ns()
        self._string_ids: dict[str, int] = {"": 0}

    def intern(self, text: str) -> int:
        """Return the id of `text`, writing it when it is new."""
        string_id = self._string_ids.get(text)
        if string_id is None:
            string_id = self._string_ids[text] = len(self._string_ids)
            data = text.encode("utf-8", "replace")
            for offset in range(0, len(data), TEXT_BYTES):
                chunk = data[offset : offset + TEXT_BYTES]
                self._put(_TEXT.pack(chunk, string_id, len(chunk), SlotKind.TEXT))
        return string_id

    def append(
        self,
        kind: SlotKind,
        start_ns: int,
        end_ns: int = 0,
        *,
        a: int = 0,
        b: int = 0,
        tid: int = 0,
        name: int = 0,
        text_id: int = 0,
    ) -> None:
        """Write one record; see `SlotKind` for what its fields mean."""
        self._put(_RECORD.pack(start_ns, end_ns, a, b, tid, name, text_id, 0, kind))

    def counter(self, name: str, ts_ns: int, value: int) -> None:
        """Write one value of a counter; the last word of its name is its unit."""
        self.append(SlotKind.COUNTER, ts_ns, a=value, name=self.intern(name))

    def flush(self) -> None:
        """Hand all that is buffered to the kernel."""
        self._flushed_ns = time.monotonic_ns()
        data, self._buffer = self._buffer, bytearray()
        n_records = len(data) // _RECORD.size
        try:
            while data:
                done = os.write(self._descriptor, data)
                del data[:done]
        except OSError:
            n_lost = -(-len(data) // _RECORD.size)
            self._drop_torn_record()
            self._count_lost(n_lost)
            n_records -= n_lost
        self.written += n_records

    def close(self) -> None:
        """Flush and close; closing twice is harmless."""
        if self._descriptor >= 0:
            self.flush()
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self, record: bytes) -> None:
        self._buffer += record
        if len(self._buffer) >= FLUSH_BYTES or time.monotonic_ns() - self._flushed_ns >= FLUSH_INTERVAL_NS:
            self.flush()

    def _drop_torn_record(self) -> None:
        # A short write on a full disk may end inside a record: cut it off, or all that follows would be misread.
        size_bytes = os.lseek(self._descriptor, 0, os.SEEK_END) - HEADER_BYTES
        whole_bytes = size_bytes - size_bytes % _RECORD.size
        os.ftruncate(self._descriptor, HEADER_BYTES + whole_bytes)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def _count_lost(self, n_records: int) -> None:
        self.lost += n_records
        os.pwrite(self._descriptor, self.lost.to_bytes(8, "little"), LOST_OFFSET)
