"""Write SLOT records into one mmap'ed log per process: pages of a shared mapping survive SIGKILL, exec and _exit.

The log grows by chunks whose blocks are allocated before they are mapped: a store into a hole of a full file system
would kill the target with SIGBUS. Whatever fails here is counted as lost, and never raised.
"""

from __future__ import annotations

import itertools
import mmap
import os
import sys
from _thread import RLock, get_native_id
from _thread import _local as Local  # noqa: N812
from struct import Struct
from time import monotonic_ns

from . import constants as c
from . import environment, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Buffer = mmap.mmap | bytearray
    Chunk = tuple[Buffer, Callable[[], int], int]  # the mapping, the next free offset in it, the end

# 48-byte records fill whole pages 256 at a time, so that every chunk starts on a page.
CHUNK_RECORDS = 1 << 14
MAX_CHUNKS = 64
MAX_TEXT_BYTES = 4000

_RECORD = Struct(c.RECORD_FORMAT)
_TEXT = Struct(c.TEXT_FORMAT)
_COUNT = Struct("<Q")

# The chunk of a log that is closed or can grow no more: it has no place.
_CLOSED: Chunk = (bytearray(), itertools.repeat(0).__next__, 0)


class Recorder:
    """This process's log. `local` holds what is known of each thread; a fork starts it anew."""

    def __init__(self) -> None:
        self.local = Local()
        self._directory = ""
        self._program = ""
        self._reset()

    def _reset(self) -> None:
        # Reentrant, because a signal handler or a finaliser may run a wrapped call while this thread holds it.
        self._lock = RLock()
        self._path = ""
        self._head: mmap.mmap | None = None
        self._chunk: Chunk = _CLOSED
        self._mappings: list[mmap.mmap] = []
        self._ids: dict[str, int] = {}
        self._next_id = itertools.count(1).__next__
        self._next_lost = itertools.count(1).__next__

    def open(self, directory: str) -> bool:
        """Create this process's log in `directory`, an absolute path; say whether it worked."""
        self._directory = directory
        try:
            self._program = self._program or process.program_name()
            self._create()
            return True
        except (OSError, ValueError) as error:
            self._reset()
            complain(error)
            return False

    def reopen_after_fork(self) -> None:
        """Give a forked child its own log; the parent's is unmapped, so that the child cannot write into it."""
        for mapping in self._mappings:
            mapping.close()
        self._reset()
        self.local = Local()
        if self._directory:
            self.open(self._directory)

    def write(
        self, kind: int, name: int, start_ns: int, end_ns: int, request: int = 0, a: int = 0, b: int = 0, used: int = 0
    ) -> None:
        """Write one record of this thread; `name` and `request` are ids from `intern`."""
        try:
            try:
                tid = self.local.tid
            except AttributeError:
                # gettid is a system call, so ask once per thread.
                tid = self.local.tid = get_native_id()
            buffer, next_offset, end = self._chunk
            offset = next_offset()
            if offset >= end:
                buffer, offset = self._claim()
            _RECORD.pack_into(buffer, offset, start_ns, end_ns, a, b, tid, name, request, used, kind)
        except Exception as error:
            self._lose(error)

    def intern(self, text: str) -> int:
        """Return the id of a string in this log, 0 for the empty one."""
        return self._ids.get(text) or self._intern(text)

    def note(self, topic: str, text: str) -> None:
        """Write what a reader of the trace should know of the recording itself."""
        now_ns = monotonic_ns()
        self.write(c.NOTE, self.intern(topic), now_ns, now_ns, self.intern(text))

    def _claim(self) -> tuple[Buffer, int]:
        """Reserve the place of one record. `count.__next__` is one C call, which no other thread can divide."""
        while True:
            chunk = self._chunk
            offset = chunk[1]()
            if offset < chunk[2]:
                return chunk[0], offset
            self._grow(chunk)
            if self._chunk is _CLOSED:
                raise ValueError("the log is full")

    def _intern(self, text: str) -> int:
        if not text:
            return 0
        try:
            with self._lock:
                known = self._ids.get(text)
                if known is not None:
                    return known
                string_id = self._next_id()
                data = text.encode("utf-8", "replace")[:MAX_TEXT_BYTES]
                for start in range(0, len(data), c.TEXT_BYTES):
                    piece = data[start : start + c.TEXT_BYTES]
                    buffer, offset = self._claim()
                    _TEXT.pack_into(buffer, offset, piece, string_id, len(piece), c.TEXT)
                self._ids[text] = string_id
                return string_id
        except Exception as error:
            self._lose(error)
            return 0

    def _create(self) -> None:
        pid = os.getpid()
        path = os.path.join(self._directory, f"ranges.{pid}.{monotonic_ns()}.bin")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            os.write(descriptor, process.header(pid, self._program))
            self._head = self._map(descriptor, 0, c.HEADER_BYTES + CHUNK_RECORDS * c.RECORD_BYTES)
        finally:
            os.close(descriptor)
        self._path = path
        self._chunk = _chunk(self._head, c.HEADER_BYTES)

    def _grow(self, full: Chunk) -> None:
        with self._lock:
            if self._chunk is not full:
                return
            self._chunk = _CLOSED
            if full is _CLOSED or len(self._mappings) >= MAX_CHUNKS:
                return
            chunk_bytes = CHUNK_RECORDS * c.RECORD_BYTES
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                self._chunk = _chunk(
                    self._map(descriptor, c.HEADER_BYTES + len(self._mappings) * chunk_bytes, chunk_bytes), 0
                )
            finally:
                os.close(descriptor)

    def _map(self, descriptor: int, offset: int, size_bytes: int) -> mmap.mmap:
        os.posix_fallocate(descriptor, offset, size_bytes)
        if sys.version_info >= (3, 13):
            mapping = mmap.mmap(descriptor, size_bytes, offset=offset, trackfd=False)
        else:
            mapping = mmap.mmap(descriptor, size_bytes, offset=offset)
        self._mappings.append(mapping)
        return mapping

    def _lose(self, error: Exception) -> None:
        """Count a lost record where the reader of the log finds it."""
        try:
            if self._head is not None:
                _COUNT.pack_into(self._head, c.LOST_OFFSET, self._next_lost())
            complain(error)
        except Exception:
            pass


def _chunk(mapping: mmap.mmap, first: int) -> Chunk:
    return mapping, itertools.count(first, c.RECORD_BYTES).__next__, len(mapping)


def complain(error: BaseException) -> None:
    """Print a failure of the instrument if the developer of slmtrace asked for it; users never see one."""
    if os.environ.get(environment.DEBUG):
        import traceback

        traceback.print_exception(type(error), error, error.__traceback__)


recorder = Recorder()
