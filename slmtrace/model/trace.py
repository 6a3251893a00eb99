"""A trace: everything that a capture says, decoded, on one clock, in one table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .events import Events, Ints, span_of
from .quality import Quality
from .sched import Sched
from .strings import Strings
from .taxonomy import WindowKind
from .tracks import Tracks


@dataclass(frozen=True, slots=True)
class CounterSeries:
    """One counter over time; `unit` is the last word of its name in the raw log."""

    name: str
    unit: str
    ts_ns: Ints
    value: Ints


@dataclass(frozen=True, slots=True)
class Window:
    """What is explained: [start_ns, end_ns), reached by `track`, where the walk backwards starts."""

    kind: WindowKind
    index: int
    start_ns: int
    end_ns: int
    track: int
    request_id: str = ""
    note: str = ""  # why it ends where it ends, when that is not the ordinary reason

    @property
    def total_ns(self) -> int:
        """Return the window's length."""
        return self.end_ns - self.start_ns

    @property
    def label(self) -> str:
        """Return 'load' or 'ttft 0'."""
        return self.kind.label if self.kind is WindowKind.LOAD else f"{self.kind.label} {self.index}"


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """One source's books: seen = written + lost, written = decoded (Perfetto, "Buffers and dataflow": loss is data)."""

    source: str
    seen: int
    written: int
    decoded: int
    lost: dict[str, int]

    @property
    def unaccounted(self) -> int:
        """Return how many records are missing without having been reported lost."""
        return max(0, self.seen - self.written - sum(self.lost.values())) + max(0, self.written - self.decoded)


@dataclass(frozen=True, slots=True)
class Loss:
    """Where and how many records a source lost."""

    ts_ns: int
    source: str
    cause: str
    count: int


@dataclass(frozen=True, slots=True)
class Trace:
    """A capture, decoded, aligned and merged."""

    manifest: dict[str, Any]
    events: Events  # sorted by (track, start, -end)
    tracks: Tracks
    strings: Strings
    sched: Sched
    counters: list[CounterSeries]
    ledger: list[LedgerLine]
    losses: list[Loss]
    quality: Quality
    clock_residual_ns: dict[str, int] = field(default_factory=dict)
    clock_snapshots: list[dict[str, int]] = field(default_factory=list)  # monotonic_ns, boottime_ns, realtime_ns

    def rows_of_track(self, track: int) -> NDArray[np.int64]:
        """Return the event rows of one track, in order."""
        return np.arange(*span_of(self.events.track, track), dtype=np.int64)
