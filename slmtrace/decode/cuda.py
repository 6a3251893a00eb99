"""One process's log of CUDA activity to events: kernels and copies on stream tracks, calls and waits on threads.

Times are CUPTI's own; the log's clock reads go along.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..capture import cupti
from ..capture.cupti import ActivityKind, BlockKind
from ..capture.directory import RawLog
from ..capture.layout import SLOT, TEXT_BYTES, SlotKind
from ..model.events import EventKind, Events, Ints, SmallInts, concatenate_events, make_events
from ..model.quality import Issue
from ..model.trace import Loss
from ..model.tracks import GPU_PROCESS_SHIFT, TrackKind
from .base import Context, Fragment, Records, join_texts, pid_of
from .clock import clock_reads
from .kernel_names import short_function_name, short_kernel_name
from .slots import Slots

# CUPTI, cupti_activity.h: CUpti_ActivityMemcpyKind, CUpti_ActivityMemoryKind, CUpti_ActivitySynchronizationType,
# CUpti_ActivityOverheadKind, CUpti_ActivityJitOperationType, CUpti_ActivityFlag of markers.
_COPY_KINDS = {1: "h2d", 2: "d2h", 3: "h2a", 4: "a2h", 5: "a2a", 6: "a2d", 7: "d2a", 8: "d2d", 9: "h2h", 10: "p2p"}
_PAGEABLE, _PINNED = 1, 2
_STREAM_WAIT_EVENT = 2
# Event and context waits have no stream: CUPTI_SYNCHRONIZATION_INVALID_VALUE.
_MOST_STREAMS = 0xFFFF
_WAITS = {1: "event wait", 3: "stream wait", 4: "context wait"}
_OVERHEADS = {
    1: "driver compiler",
    1 << 16: "cupti buffer flush",
    2 << 16: "cupti instrumentation",
    3 << 16: "cupti resource",
    4 << 16: "module loading",
    5 << 16: "lazy function loading",
    6 << 16: "command buffer full",
    7 << 16: "cupti buffer request",
    8 << 16: "cupti unified memory set-up",
}
_JIT_OPERATIONS = {1: "jit cache load", 2: "jit cache store", 3: "jit compile"}
_MARKER_INSTANT, _MARKER_START, _MARKER_END = 1, 2, 4
_THREAD_OBJECT = 2
_OWN_DOMAIN = "slmtrace"

_Shorten = Callable[[str], str]
_Label = Callable[[int], str]


def decode(log: RawLog, context: Context) -> Fragment:
    """Decode a log of CUDA activity."""
    content = _read(log, context)
    process = _Process(log, content, context)
    tables = [process.gpu_work(), process.calls(), process.waits(), process.overheads(), process.jit()]
    tables.append(process.markers())
    reads = clock_reads(content.slots, context)
    last_ns = int(reads[:, 3].max()) if len(reads) else 0
    lost = {"cupti_dropped": int(log.header.get("lost", 0)), "killed_before_flush": content.n_unfinished}
    losses = [Loss(last_ns, log.source, cause, n) for cause, n in lost.items() if n]
    decoded = content.slots.n_records + sum(map(len, content.offsets.values()))
    return Fragment(log.source, concatenate_events(tables), clock_reads=reads, decoded=decoded, losses=losses)


@dataclass(frozen=True, slots=True)
class _Content:
    """A log's bytes as words of each size, where its records of each kind lie, and its SLOT records."""

    words: dict[int, NDArray[np.unsignedinteger]]
    offsets: dict[ActivityKind, Ints]
    slots: Slots
    n_unfinished: int  # records that have no times

    def column(self, kind: ActivityKind, name: str) -> Ints:
        """Return a field of every record of a kind; fields of CUPTI's records are aligned."""
        offset, dtype = next((at, code) for field, at, code in cupti.RECORDS[kind].fields if field == name)
        size_bytes = np.dtype(dtype).itemsize
        column: Ints = self.words[size_bytes][(self.offsets[kind] + offset) // size_bytes].astype(np.int64)
        return column


def _read(log: RawLog, context: Context) -> _Content:
    whole = np.memmap(log.path, np.uint8, mode="r")
    octets = whole[: len(whole) // 8 * 8]
    offsets: dict[int, list[int]] = defaultdict(list)
    slot_offsets: list[int] = []
    n_unfinished = 0
    content = octets.data
    for block in cupti.blocks(content):
        if block.kind is BlockKind.SLOTS:
            slot_offsets += cupti.slot_offsets(content, block)
            continue
        found = cupti.find_records(content, block)
        context.quality.note(Issue.UNKNOWN_KIND, not found.is_whole)
        n_unfinished += found.n_unfinished
        for kind, places in found.offsets.items():
            offsets[kind] += places
    words = {size: octets.view(f"<u{size}") for size in (1, 4, 8)}
    by_kind = {kind: np.array(offsets[kind], np.int64) for kind in ActivityKind}
    return _Content(words, by_kind, _slots(octets, np.array(slot_offsets, np.int64)), n_unfinished)


def _slots(octets: NDArray[np.uint8], offsets: Ints) -> Slots:
    rows = octets[offsets[:, None] + np.arange(SLOT.record_bytes())]
    records: Records = np.ascontiguousarray(rows).view(np.dtype(SLOT.numpy_fields())).reshape(len(offsets))
    is_text = records["kind"] == SlotKind.TEXT
    texts = join_texts(records["id"][is_text], records["used"][is_text], rows[is_text][:, :TEXT_BYTES])
    return Slots(records[~is_text], texts, len(records))


class _Process:
    """The activity of one process, and the tables that its events are told in."""

    def __init__(self, log: RawLog, content: _Content, context: Context) -> None:
        self.pid = pid_of(log)
        self.content = content
        self.context = context
        symbols = content.slots.of_kind(SlotKind.SYMBOL)
        keys = symbols["a"].astype(np.uint64).tolist()
        texts = [content.slots.texts.get(string_id, "") for string_id in symbols["name"].tolist()]
        self.symbols: dict[int, str] = dict(zip(keys, texts, strict=True))
        self._api_rows: dict[int, tuple[int, int, int]] = {}

    def gpu_work(self) -> Events:
        """Return kernels, graphs, copies and memsets, on the tracks of their streams."""
        kernel = ActivityKind.CONCURRENT_KERNEL
        tables = [self._on_stream(kernel, EventKind.GPU_KERNEL, name=self._names(kernel, "name", short_kernel_name))]
        graphs = self.content.column(ActivityKind.GRAPH_TRACE, "graph")
        tables.append(
            self._on_stream(
                ActivityKind.GRAPH_TRACE, EventKind.GPU_KERNEL, name=self._labels(graphs, "graph {}".format)
            )
        )
        for kind in (ActivityKind.MEMCPY, ActivityKind.MEMCPY2):
            tables.append(self._copies(kind))
        sizes = self.content.column(ActivityKind.MEMSET, "bytes")
        tables.append(
            self._on_stream(ActivityKind.MEMSET, EventKind.GPU_MEMSET, size_bytes=sizes, name=self._intern("memset"))
        )
        return concatenate_events(tables)

    def calls(self) -> Events:
        """Return the driver and runtime calls that were recorded, on the threads that made them."""
        tables = []
        for kind, domain in ((ActivityKind.RUNTIME, cupti.RUNTIME_DOMAIN), (ActivityKind.DRIVER, cupti.DRIVER_DOMAIN)):
            keys = self.content.column(kind, "cbid").astype(np.uint64) | np.uint64(cupti.CALLBACK_KEY | domain << 32)
            events = self._on_thread(kind, EventKind.CUDA_API, name=self._symbols(keys, short_function_name))
            tables.append(events)
            calls = zip(events.track.tolist(), events.start_ns.tolist(), events.end_ns.tolist(), strict=True)
            # The driver's call is inside the runtime's, has the same id, and comes last.
            self._api_rows.update(zip(events.detail.tolist(), calls, strict=True))
        return concatenate_events(tables)

    def waits(self) -> Events:
        """Return the waits of the host for streams, events and contexts; the thread is that of the call."""
        kind = ActivityKind.SYNCHRONIZATION
        types = self.content.column(kind, "type")
        fields = [self.content.column(kind, name) for name in ("start", "end", "correlation", "stream")]
        rows: list[tuple[int, int, int, int, int, int]] = []
        for what, begin, finish, call_id, stream in zip(*(c.tolist() for c in (types, *fields)), strict=True):
            call = self._api_rows.get(call_id)
            if call is not None and what != _STREAM_WAIT_EVENT:
                track, call_start, call_end = call
                begin, finish = max(begin, call_start), min(finish, call_end)  # noqa: PLW2901
                rows.append((begin, max(begin, finish), track, what, call_id, stream if stream <= _MOST_STREAMS else 0))
        columns = np.array(rows, np.int64).reshape(-1, 6).T
        names = self._labels(columns[3], lambda what: _WAITS.get(what, "gpu wait"))
        return make_events(
            len(rows), start_ns=columns[0], end_ns=columns[1], track=columns[2], kind=EventKind.GPU_SYNC, name=names,
            detail=columns[4], flags=columns[5],
        )  # fmt: skip

    def overheads(self) -> Events:
        """Return what CUPTI calls overhead: lazy loading of functions, full command buffers, its own work."""
        kind = ActivityKind.OVERHEAD
        names = self._labels(
            self.content.column(kind, "overhead"), lambda what: _OVERHEADS.get(what, f"overhead {what}")
        )
        events = self._on_thread(kind, EventKind.CUDA_API, name=names, detail=0)
        return events.take(self.content.column(kind, "object") == _THREAD_OBJECT)

    def jit(self) -> Events:
        """Return the driver's compilations of PTX, and its look-ups in their cache."""
        kind = ActivityKind.JIT
        operations = self.content.column(kind, "operation")
        names = self._labels(operations, lambda what: _JIT_OPERATIONS.get(what, "jit"))
        return self._on_thread(kind, EventKind.CUDA_API, name=names, detail=0)

    def markers(self) -> Events:
        """Return the program's own NVTX ranges and marks; ours are recorded by the instrument."""
        rows = list(self._marker_rows())
        columns = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3).T
        is_instant = np.array([row[3] for row in rows], np.bool_)
        kind = np.where(is_instant, int(EventKind.NOTE), int(EventKind.RANGE))
        names = [self._intern(row[4]) for row in rows]
        tracks = self._threads(columns[2])
        return make_events(len(rows), start_ns=columns[0], end_ns=columns[1], track=tracks, kind=kind, name=names)

    def _marker_rows(self) -> Iterator[tuple[int, int, int, bool, str]]:
        names = ("start", "tid", "id", "flags", "object", "name", "domain")
        columns = [self.content.column(ActivityKind.MARKER, name) for name in names]
        order = np.argsort(columns[0], kind="stable")
        open_ranges: dict[int, tuple[int, int, str]] = {}
        for ts_ns, tid, marker_id, flags, owner, name, domain in zip(
            *(c[order].tolist() for c in columns), strict=True
        ):
            if owner != _THREAD_OBJECT or self.symbols.get(domain) == _OWN_DOMAIN:
                continue
            if flags & _MARKER_START:
                open_ranges[marker_id] = (ts_ns, tid, self.symbols.get(name, ""))
            elif flags & _MARKER_END and marker_id in open_ranges:
                begun_ns, begun_tid, text = open_ranges.pop(marker_id)
                if begun_tid == tid:
                    yield begun_ns, ts_ns, tid, False, text
            elif flags & _MARKER_INSTANT:
                yield ts_ns, ts_ns, tid, True, self.symbols.get(name, "")
        self.context.quality.note(Issue.UNFINISHED_RANGE, len(open_ranges))

    def _copies(self, kind: ActivityKind) -> Events:
        copy_kind = self.content.column(kind, "copy_kind")
        source, target = self.content.column(kind, "source"), self.content.column(kind, "target")
        is_pageable = (source == _PAGEABLE) | (target == _PAGEABLE)
        is_pinned = ~is_pageable & ((source == _PINNED) | (target == _PINNED))
        names = self._labels(copy_kind * 4 + is_pageable + 2 * is_pinned, _copy_label)
        sizes = self.content.column(kind, "bytes")
        return self._on_stream(kind, EventKind.GPU_MEMCPY, name=names, size_bytes=sizes, flags=is_pinned)

    def _on_stream(self, kind: ActivityKind, event_kind: EventKind, **columns: object) -> Events:
        device, stream = self.content.column(kind, "device"), self.content.column(kind, "stream")
        distinct, rows = np.unique(device << 32 | stream, return_inverse=True)
        tracks = np.array([self._stream(key >> 32, key & 0xFFFFFFFF) for key in distinct.tolist()], np.int32)
        columns["track"] = tracks[rows] if len(rows) else 0
        return self._events(kind, event_kind, columns)

    def _on_thread(self, kind: ActivityKind, event_kind: EventKind, **columns: object) -> Events:
        columns["track"] = self._threads(self.content.column(kind, "tid"))
        return self._events(kind, event_kind, columns)

    def _events(self, kind: ActivityKind, event_kind: EventKind, columns: dict[str, object]) -> Events:
        """Make events; records without times (killed before the GPU was done, or dropped) are left out and counted."""
        start, end = self.content.column(kind, "start"), self.content.column(kind, "end")
        columns.setdefault("detail", self.content.column(kind, "correlation"))
        events = make_events(len(start), start_ns=start, end_ns=np.maximum(start, end), kind=event_kind, **columns)
        is_timed = (start > 0) & (end > 0)
        self.context.quality.note(Issue.IMPLAUSIBLE_TIME, int((~is_timed).sum()))
        self.context.quality.note(Issue.NEGATIVE_DURATION, int((is_timed & (end < start)).sum()))
        return events.take(is_timed)

    def _stream(self, device: int, stream: int) -> int:
        key = self.pid << GPU_PROCESS_SHIFT | stream
        return self.context.tracks.other(TrackKind.GPU_STREAM, device, key, f"stream {stream}")

    def _threads(self, tids: Ints) -> SmallInts:
        distinct, rows = np.unique(tids, return_inverse=True)
        tracks = np.array([self.context.tracks.thread(tid, self.pid) for tid in distinct.tolist()], np.int32)
        return tracks[rows] if len(rows) else np.empty(0, np.int32)

    def _names(self, kind: ActivityKind, field: str, shorten: _Shorten) -> SmallInts:
        return self._symbols(self.content.column(kind, field).astype(np.uint64), shorten)

    def _symbols(self, keys: NDArray[np.uint64], shorten: _Shorten) -> SmallInts:
        distinct, rows = np.unique(keys, return_inverse=True)
        missing = np.array([key not in self.symbols for key in distinct.tolist()], np.bool_)
        self.context.quality.note(Issue.MISSING_STRING, int(missing[rows].sum()) if len(rows) else 0)
        ids = np.array([self._intern(shorten(self.symbols.get(key, ""))) for key in distinct.tolist()], np.int32)
        return ids[rows] if len(rows) else np.empty(0, np.int32)

    def _labels(self, values: Ints, label: _Label) -> SmallInts:
        distinct, rows = np.unique(values, return_inverse=True)
        ids = np.array([self._intern(label(value)) for value in distinct.tolist()], np.int32)
        return ids[rows] if len(rows) else np.empty(0, np.int32)

    def _intern(self, text: str) -> int:
        return self.context.strings.intern(text)


def _copy_label(key: int) -> str:
    kind, memory = key >> 2, {1: " pageable", 2: " pinned"}.get(key & 3, "")
    return "memcpy " + _COPY_KINDS.get(kind, "of unknown kind") + (memory if kind in (1, 2) else "")
