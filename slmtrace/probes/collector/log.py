"""The raw log: records from the ring as they are, and records of the collector's own."""

from __future__ import annotations

import os
import struct
import time

from ...capture.layout import LOST_OFFSET, RING, TEXT_BYTES, LostCause, RingType
from ...capture.rawlog import create

_RECORD = struct.Struct(RING.pack_format())
_PAYLOAD_BYTES = _RECORD.size - 8
COMM_BYTES = 16


class Log:
    """Append fixed-size records to a raw log; what cannot be written is counted, and never half written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._n_texts = 0
        self.written = 0  # records in the file
        self.own = 0  # records made here, written or not
        self.lost = 0  # records that the file system refused

    def append(self, records: memoryview | bytes) -> None:
        """Write whole records."""
        n_bytes = len(records)
        position = 0
        try:
            while position < n_bytes:
                position += os.write(self._descriptor, records[position:])
        except OSError:
            torn_bytes = position % _RECORD.size
            if torn_bytes:
                end = os.lseek(self._descriptor, -torn_bytes, os.SEEK_CUR)
                os.ftruncate(self._descriptor, end)
        self.written += position // _RECORD.size
        self.lost += (n_bytes - position // _RECORD.size * _RECORD.size) // _RECORD.size

    def note(self, kind: RingType, *, tid: int = 0, a: int = 0, b: int = 0, comm: bytes = b"", ts_ns: int = 0) -> None:
        """Write a record of our own; `comm` fills c and d."""
        c, d = struct.unpack("<QQ", comm[:COMM_BYTES].ljust(COMM_BYTES, b"\0"))
        self._append_own(_pack(ts_ns or time.monotonic_ns(), kind, 0, tid, a, b, c, d))

    def note_fold(self, tid: int, first_ns: int, last_ns: int, b: int, c: int, inode: int) -> None:
        """Write what was left in a thread's fold slot."""
        self._append_own(_pack(first_ns, RingType.FOLD, 0, tid, last_ns, b, c, inode))

    def note_lost_total(self, count: int) -> None:
        """Keep the header's count of lost records current."""
        try:
            os.pwrite(self._descriptor, struct.pack("<Q", count), LOST_OFFSET)
        except OSError:
            return  # the LOST records say it too

    def note_lost(self, cause: LostCause, count: int) -> None:
        """Say that records were lost since the last such record."""
        self.note(RingType.LOST, a=int(cause), b=count)

    def note_file(self, path: str, inode: int, device: int, size_bytes: int) -> None:
        """Give a file its path."""
        text = self._note_text(os.fsencode(path))
        self._append_own(_pack(time.monotonic_ns(), RingType.FILE, 0, text, inode, device, size_bytes, 0))

    def note_function(self, number: int, name: str) -> None:
        """Give the number of a probed function its name."""
        text = self._note_text(name.encode())
        self._append_own(_pack(time.monotonic_ns(), RingType.FUNCTION, 0, text, number, 0, 0, 0))

    def note_descriptor(self, pid: int, descriptor: int, path: str) -> None:
        """Give a process's open descriptor its path."""
        text = self._note_text(os.fsencode(path))
        self._append_own(_pack(time.monotonic_ns(), RingType.DESCRIPTOR, 0, text, pid, descriptor, 0, 0))

    def _note_text(self, data: bytes) -> int:
        """Write a text and return its id."""
        self._n_texts += 1
        records = []
        for start in range(0, len(data), TEXT_BYTES):
            chunk = data[start : start + TEXT_BYTES]
            words = struct.unpack("<5Q", chunk.ljust(TEXT_BYTES, b"\0"))
            records.append(_pack(words[0], RingType.TEXT, len(chunk), self._n_texts, *words[1:]))
        self._append_own(*records)
        return self._n_texts

    def _append_own(self, *records: bytes) -> None:
        self.own += len(records)
        self.append(b"".join(records))


def _pack(ts_ns: int, kind: RingType, cpu: int, tid: int, a: int, b: int, c: int, d: int) -> bytes:
    return _RECORD.pack(_PAYLOAD_BYTES, ts_ns, kind, cpu, tid, a, b, c, d)


def open_log(place: str | int, header: bytes, uid: int, gid: int) -> Log:
    """Begin the raw log: a new file at a path, readable by this user alone, or the user's own that is open already."""
    if isinstance(place, int):
        os.write(place, header)
        return Log(place)
    descriptor = create(place, header)  # type: ignore[arg-type]  # os.open takes text as well
    os.fchown(descriptor, uid, gid)
    return Log(descriptor)
