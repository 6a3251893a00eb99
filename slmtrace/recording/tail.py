"""Follow the range logs while they are written: which stage the target is in, and which requests it has served."""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..capture.layout import (
    HEADER_BYTES,
    MARK_FIRST_TOKEN,
    MARK_READY,
    MARK_REQUEST_END,
    MARK_REQUEST_START,
    SLOT,
    TEXT_BYTES,
    SlotKind,
)

_RECORD = struct.Struct(SLOT.pack_format())
_BLOCK_BYTES = 1024 * _RECORD.size
# A thread may die between taking a slot and filling it; whoever waited this long for it goes on without.
_HOLE_PATIENCE_S = 1.0


@dataclass(slots=True)
class Seen:
    """What the marks of all processes said so far."""

    doing: str = ""  # the last thing that began or ended
    is_ready: bool = False  # what was loaded last is complete, and nothing was begun since
    n_started: int = 0
    n_first_tokens: int = 0
    n_ended: int = 0


@dataclass(slots=True)
class _Log:
    """One process's log: how far it was read, and its strings."""

    path: Path
    offset: int = HEADER_BYTES
    texts: dict[int, bytes] = field(default_factory=dict)
    ahead: set[int] = field(default_factory=set)  # offsets already read beyond the first hole
    hole_since: float = 0.0
    marks: Counter[tuple[str, bytes]] = field(default_factory=Counter)  # by name and request


class RangesTail:
    """Reads what was added to the range logs of a capture since the last look."""

    def __init__(self, raw: Path) -> None:
        self.seen = Seen()
        self._raw = raw
        self._logs: dict[Path, _Log] = {}
        self._known: Counter[tuple[str, bytes]] = Counter()  # the most that one log has of each mark

    def look(self) -> Seen:
        """Read what is new, and return the sum of all that was read."""
        for path in self._raw.glob("ranges.*.bin"):
            log = self._logs.setdefault(path, _Log(path))
            try:
                self._read(log)
            except OSError:
                continue  # it was just created, or is gone: the next look tells
        return self.seen

    def _read(self, log: _Log) -> None:
        descriptor = os.open(log.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            start = log.offset
            while self._read_block(log, os.pread(descriptor, _BLOCK_BYTES, start), start):
                start += _BLOCK_BYTES
        finally:
            os.close(descriptor)

    def _read_block(self, log: _Log, block: bytes, start: int) -> bool:
        """Take the records of a block; return whether the next one may hold some too."""
        block = block[: len(block) - len(block) % _RECORD.size]
        has_records = False
        for position, record in enumerate(_RECORD.iter_unpack(block)):
            offset = start + position * _RECORD.size
            is_first_unread = offset == log.offset
            if record[-1] == SlotKind.EMPTY:
                if is_first_unread and log.ahead and self._is_given_up(log):
                    log.offset += _RECORD.size
                continue
            has_records = True
            if offset not in log.ahead:
                self._take(log, record, block[position * _RECORD.size :][:TEXT_BYTES])
            if is_first_unread:
                log.offset += _RECORD.size
                log.hole_since = 0.0
                log.ahead.discard(offset)
            else:
                log.ahead.add(offset)
        return has_records and len(block) == _BLOCK_BYTES

    def _is_given_up(self, log: _Log) -> bool:
        now = time.monotonic()
        log.hole_since = log.hole_since or now
        if now - log.hole_since < _HOLE_PATIENCE_S:
            return False
        log.hole_since = 0.0
        return True

    def _take(self, log: _Log, record: tuple[int, ...], text: bytes) -> None:
        _, _, _, _, _, name_id, string_id, used, kind = record
        if kind == SlotKind.TEXT:
            log.texts[string_id] = log.texts.get(string_id, b"") + text[:used]
            return
        name = log.texts.get(name_id, b"").decode("utf-8", "replace")
        if kind == SlotKind.MARK:
            if self._is_news(log, name, log.texts.get(string_id, b"")):
                self._take_mark(name)
        elif kind == SlotKind.IMPORT:
            self._take_step(f"importing {name.partition('.')[0]}")
        elif kind in (SlotKind.RANGE, SlotKind.BEGIN):
            self._take_step(name.partition("|")[2] or name)

    def _take_step(self, doing: str) -> None:
        self.seen.doing = doing
        self.seen.is_ready = False

    def _is_news(self, log: _Log, name: str, request: bytes) -> bool:
        """Say whether a mark tells something new: a client and its server both mark one request."""
        if not request:
            return True
        log.marks[name, request] += 1
        if log.marks[name, request] <= self._known[name, request]:
            return False
        self._known[name, request] = log.marks[name, request]
        return True

    def _take_mark(self, name: str) -> None:
        if name == MARK_READY:
            self.seen.is_ready = True
        elif name == MARK_REQUEST_START:
            self.seen.n_started += 1
        elif name == MARK_FIRST_TOKEN:
            self.seen.n_first_tokens += 1
        elif name == MARK_REQUEST_END:
            self.seen.n_ended += 1
