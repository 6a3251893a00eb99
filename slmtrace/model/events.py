"""The event table: numpy columns of equal length, one row an event, all times CLOCK_MONOTONIC ns."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
SmallInts = NDArray[np.int32]
Bytes = NDArray[np.uint8]

NO_EVENT = -1
NO_STAGE = 255

# How the name of the MARK at the end of a process begins that was killed or that crashed; the signal's name follows.
MARK_KILLED = "killed by "

# Flags of SYSCALL events.
SYSCALL_ON_GIL = 1 << 0  # a futex of Python's global interpreter lock


class EventKind(enum.IntEnum):
    """What an event is. Stored integers never change."""

    # A call on a thread; name: label; stage; size_bytes. With accounting, detail: its thread's on-CPU ns, count: minor
    # faults, flags: major faults; without, detail is 0 and count 1.
    RANGE = 1
    IMPORT = 2  # a module's execution; name: module; detail: on-CPU ns in compiling its source
    DLOPEN = 3  # an extension module's dlopen; name: module
    # A stretch of a request on no thread in particular; name, stage, request; count and detail: of a generator, its
    # items and the ns inside it; of an engine's step, the request's own tokens and all tokens of the step.
    ASYNC = 4
    MARK = 5  # an instant; name: MARK_*; request
    FAULT = 6  # one page fault; detail: address; flags: FAULT_*; file
    # one system call; name: its name; detail: return value; size_bytes; file where known; flags: SYSCALL_*
    SYSCALL = 7
    FOLD = (
        8  # many short events; name: class; count; work_ns: their summed own time; size_bytes; file; flags: FoldClass
    )
    BLOCK_IO = 9  # one block request, on a device track; detail: sector; name: read or write; size_bytes
    COMPACTION = 10  # flags: status
    RECLAIM = 11  # detail: pages reclaimed
    KHUGEPAGED = 12
    MIGRATE = 13  # count: pages migrated; detail: pages failed
    MALLOC = 14  # one slow allocator call; name: function; size_bytes; detail: pointer
    SAMPLE = 15  # one stack sample; name: stack, root first, frames joined by ';'
    CUDA_API = 16  # one driver or runtime call; name; detail: correlation id, 0: unknown
    GPU_KERNEL = 17  # on a stream track; name; detail: correlation id
    GPU_MEMCPY = 18  # on a stream track; name: kind; size_bytes; detail: correlation id; flags: 1 if pinned
    GPU_MEMSET = 19
    GPU_SYNC = 20  # on a thread track; detail: correlation id; flags: the stream waited for, 0: all
    NOTE = 22  # an instant; name: text
    SPIN = 23  # a thread waited on a CPU; count: samples that found it so


@dataclass(frozen=True, slots=True)
class Events:
    """The event table. Rows are in no order; `merge_events` orders them by (track, start, -end, row)."""

    start_ns: Ints
    end_ns: Ints
    track: SmallInts  # row in Tracks
    kind: Bytes  # EventKind
    stage: Bytes  # Stage, or NO_STAGE
    flags: NDArray[np.uint16]  # meaning by kind
    name: SmallInts  # row in Strings
    file: SmallInts  # row in Strings (a path), 0: none
    request: SmallInts  # row in Strings (a request id), 0: none
    count: SmallInts  # how many it stands for
    size_bytes: Ints
    work_ns: Ints  # the time that it explains; end - start but for folds and generators
    detail: Ints  # meaning by kind

    def __len__(self) -> int:
        return len(self.start_ns)

    def of_kind(self, kind: EventKind) -> Ints:
        """Return the rows of one kind; of one byte a row, this is the cheapest question to begin with."""
        return np.flatnonzero(self.kind == kind)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Events:
        """Return the table of these rows, in their order."""
        return Events(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True, slots=True)
class ByStart:
    """Rows of a table in the order of their start: those of a stretch of time are found without a look at all."""

    rows: Ints
    start_ns: Ints
    end_ns: Ints
    reach_ns: Ints  # until when any row lasts that begins no later

    def starting(self, start_ns: int, end_ns: int) -> Ints:
        """Return the rows that start between two times, the first included."""
        low, high = np.searchsorted(self.start_ns, [start_ns, end_ns])
        return self.rows[low:high]

    def meeting(self, start_ns: int, end_ns: int) -> Ints:
        """Return the rows that end after the first time and start before the second one."""
        low = int(np.searchsorted(self.reach_ns, start_ns, side="right"))
        high = int(np.searchsorted(self.start_ns, end_ns))
        return self.rows[low:high][self.end_ns[low:high] > start_ns]


def by_start(rows: Ints, start_ns: Ints, end_ns: Ints) -> ByStart:
    """Order rows of a table, whose columns of starts and ends these are."""
    start, end = start_ns[rows], end_ns[rows]
    order = np.argsort(start, kind="stable")
    end = end[order]
    return ByStart(rows[order], start[order], end, np.maximum.accumulate(end))


def span_of(tracks: SmallInts, track: int) -> tuple[int, int]:
    """Return where the rows of one track begin and end in a column that is sorted by track."""
    # Of the column's own type: numpy.searchsorted makes a copy of the whole column for a wider one.
    low, high = np.searchsorted(tracks, np.array([track, track + 1], tracks.dtype)).tolist()
    return low, high


def is_among(members: Collection[enum.IntEnum]) -> NDArray[np.bool_]:
    """Return a table that says by its value whether a kind or a stage is one of these.

    numpy.isin takes several times as long for so few values.
    """
    table = np.zeros(256, np.bool_)
    table[list(members)] = True
    return table


def distinct_times(times: Ints) -> Ints:
    """Return the different values of an array, sorted.

    numpy.unique hashes integers since numpy 2.3, which takes many times as long for times that lie close together.
    """
    ordered: Ints = np.sort(times)
    is_first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
    return ordered[is_first]


def union(start_ns: Ints, end_ns: Ints) -> tuple[Ints, Ints]:
    """Return the union of intervals, of which there is at least one, as disjoint ones, in order."""
    order = np.argsort(start_ns, kind="stable")
    start, reach = start_ns[order], np.maximum.accumulate(end_ns[order])
    is_first = np.append(True, start[1:] > reach[:-1])
    is_last = np.append(is_first[1:], True)
    return start[is_first], reach[is_last]


def distinct_rows(values: NDArray[np.integer]) -> tuple[Ints, Ints]:
    """Return the different values of an array, sorted, and for each element the row of its value among them.

    For what is neither negative nor large, as ids are: a table takes a tenth of the time of numpy.unique.
    """
    is_present = np.zeros(int(values.max(initial=0)) + 1, np.bool_)
    is_present[values] = True
    distinct = np.flatnonzero(is_present)
    row_by_value = np.empty(len(is_present), np.int64)
    row_by_value[distinct] = np.arange(len(distinct))
    return distinct, row_by_value[values]


COLUMN_DTYPES: dict[str, np.dtype[np.generic]] = {
    "start_ns": np.dtype(np.int64),
    "end_ns": np.dtype(np.int64),
    "track": np.dtype(np.int32),
    "kind": np.dtype(np.uint8),
    "stage": np.dtype(np.uint8),
    "flags": np.dtype(np.uint16),
    "name": np.dtype(np.int32),
    "file": np.dtype(np.int32),
    "request": np.dtype(np.int32),
    "count": np.dtype(np.int32),
    "size_bytes": np.dtype(np.int64),
    "work_ns": np.dtype(np.int64),
    "detail": np.dtype(np.int64),
}
_DEFAULTS = {"stage": NO_STAGE, "count": 1}


def make_events(n: int, **columns: object) -> Events:
    """Make a table of `n` rows: a column is an array of length n or one value for all rows; those left out are 0.

    `stage` is NO_STAGE, `count` 1 and `work_ns` end - start when left out.
    """
    unknown = set(columns) - set(COLUMN_DTYPES)
    if unknown:
        raise TypeError(f"no such column: {sorted(unknown)}")
    made: dict[str, NDArray[np.generic]] = {}
    for name, dtype in COLUMN_DTYPES.items():
        if name == "work_ns" and name not in columns:
            made[name] = np.subtract(made["end_ns"], made["start_ns"])
            continue
        value = np.asarray(columns.get(name, _DEFAULTS.get(name, 0)))
        made[name] = np.ascontiguousarray(np.broadcast_to(value, (n,)), dtype=dtype)
    return Events(**made)  # type: ignore[arg-type]


def concatenate_events(tables: list[Events]) -> Events:
    """Put tables one after the other."""
    if not tables:
        return make_events(0)
    return Events(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in COLUMN_DTYPES})


def merge_events(tables: list[Events]) -> Events:
    """Put tables together in the order of (track, start, -end, row): parents come before their children.

    Column by column: of no more than one column is there a copy at a time.
    """
    tables = tables or [make_events(0)]

    def joined(name: str) -> NDArray[np.integer]:
        return np.concatenate([getattr(table, name) for table in tables])

    start_ns, track = joined("start_ns"), joined("track")
    order = np.lexsort((start_ns, track))
    # Few start together, so the ends of all need not be sorted too.
    is_together = (np.diff(start_ns[order]) == 0) & (np.diff(track[order]) == 0)
    tied = np.flatnonzero(np.append(is_together, False) | np.append(False, is_together))
    rows = order[tied]
    order[tied] = rows[np.lexsort((-joined("end_ns")[rows], start_ns[rows], track[rows]))]
    del start_ns, track
    return Events(**{name: joined(name)[order] for name in COLUMN_DTYPES})  # type: ignore[arg-type]
