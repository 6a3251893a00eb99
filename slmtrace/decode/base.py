"""What decoders share: what they are given, what they return, and safe reading of records cut at any byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..capture.directory import RawLog
from ..capture.layout import HEADER_BYTES, TEXT_BYTES, Layout
from ..model.events import Events, make_events
from ..model.quality import Issue, Quality
from ..model.sched import Sched
from ..model.strings import Strings
from ..model.trace import CounterSeries, Loss
from ..model.tracks import Tracks

Records = NDArray[np.void]

# CLOCK_MONOTONIC of a machine that has run for 146 years: no sum of two times overflows.
LATEST_NS = 1 << 62

_BLOCK_RECORDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Context:
    """The tables that all decoders of a capture fill together."""

    tracks: Tracks
    strings: Strings
    quality: Quality


@dataclass(frozen=True, slots=True)
class Fragment:
    """What one raw log says, in the source's own clock."""

    source: str
    events: Events = field(default_factory=lambda: make_events(0))
    sched: Sched | None = None
    counters: list[CounterSeries] = field(default_factory=list)
    clock_reads: NDArray[np.int64] | None = None  # rows of (ClockId, before_ns, value_ns, after_ns)
    decoded: int = 0  # records read, of whatever kind
    losses: list[Loss] = field(default_factory=list)


Decoder = Callable[[RawLog, Context], Fragment]


def pid_of(log: RawLog) -> int:
    """Return the process that a log says to be of; 0 where it says none."""
    pid = log.header.get("pid")
    return pid if isinstance(pid, int) and 0 < pid < 1 << 31 else 0


def read_records(log: RawLog, layout: Layout, quality: Quality) -> Records:
    """Map the records of a raw log; a record cut at the end is left out and counted."""
    dtype = np.dtype(layout.numpy_fields())
    size_bytes = log.path.stat().st_size - HEADER_BYTES
    n, rest = divmod(max(size_bytes, 0), dtype.itemsize)
    quality.note(Issue.CUT_LOG, bool(rest))
    if n == 0:
        return np.empty(0, dtype)
    return np.memmap(log.path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(n,))


def read_blocks(log: RawLog, layout: Layout, quality: Quality) -> Iterator[Records]:
    """Read the records of a raw log, some at a time; a record cut at the end is left out and counted."""
    dtype = np.dtype(layout.numpy_fields())
    quality.note(Issue.CUT_LOG, max(log.path.stat().st_size - HEADER_BYTES, 0) % dtype.itemsize > 0)
    with log.path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while len(records := np.fromfile(file, dtype, _BLOCK_RECORDS)):
            yield records


def pick(records: Records, chosen: NDArray[np.bool_]) -> Records:
    """Return the chosen records.

    By their numbers: indexed by booleans, numpy copies records field by field, in ten times the time.
    """
    return records.take(np.flatnonzero(chosen))


def join_texts(string_ids: NDArray[np.integer], used: NDArray[np.integer], chunks: NDArray[np.uint8]) -> dict[int, str]:
    """Put TEXT records together: rows of one id, in order, are one string.

    `chunks` is [n, 40] bytes. What is not UTF-8 is replaced, and control characters too, so that a hostile name
    reaches no terminal.
    """
    parts: dict[int, bytearray] = {}
    data = chunks.tobytes()
    ends = np.arange(len(used)) * TEXT_BYTES + np.minimum(used, TEXT_BYTES)
    for row, (string_id, end) in enumerate(zip(string_ids.tolist(), ends.tolist(), strict=True)):
        parts.setdefault(string_id, bytearray()).extend(data[row * TEXT_BYTES : end])
    return {string_id: clean_text(bytes(part)) for string_id, part in parts.items()}


def clean_text(data: bytes) -> str:
    """Decode UTF-8 from outside; what is not printable becomes U+FFFD, a tab stays."""
    text = data.decode("utf-8", "replace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
