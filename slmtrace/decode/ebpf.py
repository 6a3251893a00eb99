"""What the eBPF collector recorded: faults, system calls, folds, block I/O, memory management, and the scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..capture.directory import RawLog
from ..capture.layout import MALLOC_OPS, FoldClass, LostCause, RingType
from ..capture.syscalls import Interest, syscall_interests, syscall_names
from ..model.events import (
    SYSCALL_ON_GIL,
    EventKind,
    Events,
    Ints,
    SmallInts,
    concatenate_events,
    distinct_times,
    make_events,
)
from ..model.quality import Issue
from ..model.trace import Loss
from ..model.tracks import TrackKind
from .base import LATEST_NS, Context, Fragment
from .block import pair_requests
from .gil import is_about_gil
from .http import mark_requests
from .kernel_names import short_function_name
from .killed import mark_killed
from .ring import Files, Ring, Rows, Threads, Words, high_half, low_half, read_ring, signed
from .switches import build_sched

_LARGEST_COUNT = np.iinfo(np.int32).max
_LARGEST_FLAGS = np.iinfo(np.uint16).max
_LONGEST_PERIOD_NS = 100_000_000
_LARGEST_SIZE = np.iinfo(np.int64).max
_OPERATIONS = {ord("R"): "read", ord("W"): "write", ord("F"): "flush", ord("D"): "discard"}


def decode(log: RawLog, context: Context) -> Fragment:
    """Turn the collector's log into events and scheduler evidence."""
    ring = read_ring(log, context)
    decoder = _Decoder(ring, log.header, context)
    events = concatenate_events(
        [
            decoder.faults(),
            decoder.system_calls(),
            decoder.folds(),
            decoder.block_io(),
            decoder.memory_work(RingType.COMPACTION, EventKind.COMPACTION),
            decoder.memory_work(RingType.RECLAIM, EventKind.RECLAIM),
            decoder.khugepaged(),
            decoder.migrations(),
            decoder.spins(),
            decoder.allocator_calls(),
            decoder.driver_calls(),
            mark_requests(ring, decoder.threads, context.strings),
            mark_killed(ring, decoder.threads, context.strings),
        ]
    )
    sched = build_sched(ring, decoder.threads, context.quality)
    return Fragment(log.source, events, sched, decoded=ring.n_records, losses=_losses(ring, log.source))


class _Decoder:
    """The tables that the events of one log share."""

    def __init__(self, ring: Ring, header: dict[str, Any], context: Context) -> None:
        self._ring = ring
        self._header = header
        self._context = context
        self.threads = Threads(ring, context.tracks)
        self._files = Files(ring, context)

    def faults(self) -> Events:
        """Return the faults that were sent one by one."""
        rows = self._timed(RingType.FAULT)
        return self._on_threads(
            rows,
            EventKind.FAULT,
            flags=low_half(rows.c) & _LARGEST_FLAGS,
            file=self._files.intern(high_half(rows.c), rows.d),
            detail=signed(rows.a),
        )

    def system_calls(self) -> Events:
        """Return the system calls that were sent one by one."""
        rows = self._timed(RingType.SYSCALL)
        machine = str(self._header.get("machine"))
        names, interests = syscall_names(machine), syscall_interests(machine)
        returned, argument = signed(rows.d), np.clip(rows.c, 0, _LARGEST_SIZE).astype(np.int64)
        is_read, is_sized = (np.zeros(len(rows), np.bool_) for _ in range(2))
        is_ioctl = np.isin(rows.a, [number for number, name in names.items() if name == "ioctl"])
        files = self._read_files(rows)
        files[is_ioctl] = self._devices(rows.where(is_ioctl))
        for number, interest in interests.items():
            if interest.fold_class is FoldClass.READ:
                is_read |= rows.a == number
            elif interest.is_size:
                is_sized |= rows.a == number
        return self._on_threads(
            rows,
            EventKind.SYSCALL,
            name=self._intern(rows.a, lambda number: names.get(number, f"syscall {number}")),
            file=files,
            size_bytes=np.where(is_read, np.maximum(returned, 0), np.where(is_sized, argument, 0)),
            detail=returned,
            flags=np.where(self._on_gil(rows, interests), SYSCALL_ON_GIL, 0),
        )

    def _on_gil(self, calls: Rows, interests: dict[int, Interest]) -> NDArray[np.bool_]:
        """Say which calls are on a futex of Python's interpreter lock."""
        numbers = [number for number, interest in interests.items() if interest.fold_class is FoldClass.FUTEX]
        is_futex = np.isin(calls.a, np.array(numbers, np.uint64))
        futexes = calls.where(is_futex)
        found = np.zeros(len(calls), np.bool_)
        found[is_futex] = is_about_gil(self._ring, futexes, self.threads.pids_of(futexes.tid))
        return found

    def _read_files(self, calls: Rows) -> SmallInts:
        """Return the files of system calls, which folds of no events name by thread and start."""
        notes = self._ring.of_type(RingType.FOLD)
        notes = notes.where((notes.b >> np.uint64(8) & np.uint64(0xFFFFFF)) == 0)
        found = np.zeros(len(calls), np.int32)
        if not len(notes) or not len(calls):
            return found
        moments = distinct_times(calls.ts_ns)
        keys, wanted = _moment_keys(moments, notes), _moment_keys(moments, calls)
        order = np.argsort(keys, kind="stable")
        at = np.minimum(np.searchsorted(keys[order], wanted), len(order) - 1)
        note = order[at]
        is_found = (keys[note] == wanted) & (notes.ts_ns[note] == calls.ts_ns)
        files = self._files.intern(high_half(notes.c), notes.d)
        found[is_found] = files[note[is_found]]
        return found

    def _devices(self, calls: Rows) -> SmallInts:
        """Return the GPU devices that calls of ioctl are for."""
        noted = self._ring.of_type(RingType.DESCRIPTOR)
        paths = {
            (pid, descriptor): self._ring.texts.get(text, "")
            for text, pid, descriptor in zip(noted.tid.tolist(), noted.a.tolist(), noted.b.tolist(), strict=True)
        }
        keys = zip(self.threads.pids_of(calls.tid).tolist(), calls.c.tolist(), strict=True)
        return np.array([self._context.strings.intern(paths.get(key, "")) for key in keys], np.int32)

    def folds(self) -> Events:
        """Return the sums of short events."""
        rows = self._ring.of_type(RingType.FOLD)
        fold_class, count = (rows.b & np.uint64(0xFF)).astype(np.int64), low_half(rows.b) >> 8
        is_known = np.isin(fold_class, [int(known) for known in FoldClass])
        self._context.quality.note(Issue.UNKNOWN_KIND, int((~is_known).sum()))
        is_timely = (rows.a < LATEST_NS) & (rows.a.astype(np.int64) >= rows.ts_ns)
        self._context.quality.note(Issue.IMPLAUSIBLE_TIME, int((is_known & ~is_timely).sum()))
        chosen = is_known & is_timely & (count > 0)
        rows, fold_class, count = rows.where(chosen), fold_class[chosen], count[chosen]
        return make_events(
            len(rows),
            start_ns=rows.ts_ns,
            end_ns=rows.a.astype(np.int64),
            track=self.threads.tracks_of(rows.tid),
            kind=EventKind.FOLD,
            flags=fold_class,
            name=self._intern(fold_class.astype(np.uint64), lambda number: FoldClass(number).name.lower()),
            file=self._files.intern(high_half(rows.c), rows.d),
            count=count,
            size_bytes=high_half(rows.b),
            work_ns=low_half(rows.c),
        )

    def block_io(self) -> Events:
        """Return the requests of the block devices."""
        requests = pair_requests(self._ring, self._context.quality)
        tracks = np.zeros(len(requests.device), np.int32)
        for device in np.unique(requests.device).tolist():
            name = f"{device >> 20}:{device & 0xFFFFF}"
            tracks[requests.device == device] = self._context.tracks.other(TrackKind.BLOCK_DEVICE, 0, device, name)
        return make_events(
            len(tracks),
            start_ns=requests.start_ns,
            end_ns=requests.end_ns,
            track=tracks,
            kind=EventKind.BLOCK_IO,
            name=self._intern(requests.letter, lambda letter: _OPERATIONS.get(letter, "other")),
            size_bytes=requests.size_bytes,
            detail=requests.sector,
        )

    def memory_work(self, kind: RingType, event_kind: EventKind) -> Events:
        """Return stretches of compaction or reclaim; in `detail` the pages that were reclaimed."""
        rows = self._timed(kind)
        flags = np.minimum(rows.a, _LARGEST_FLAGS) if event_kind is EventKind.COMPACTION else 0
        return self._on_anybody(rows, event_kind, rows.b, flags=flags, detail=signed(rows.c))

    def khugepaged(self) -> Events:
        """Return what khugepaged looked at."""
        rows = self._ring.of_type(RingType.KHUGEPAGED)
        return self._on_anybody(
            rows,
            EventKind.KHUGEPAGED,
            flags=np.minimum(rows.a, _LARGEST_FLAGS),
            count=np.minimum(rows.b, _LARGEST_COUNT).astype(np.int64),
        )

    def migrations(self) -> Events:
        """Return page migrations."""
        rows = self._ring.of_type(RingType.MIGRATE)
        count = np.minimum(rows.a, _LARGEST_COUNT).astype(np.int64)
        return self._on_anybody(rows, EventKind.MIGRATE, count=count, detail=signed(rows.b))

    def spins(self) -> Events:
        """Return the stretches in which threads spun: each sample stands for the period before it."""
        rows = self._ring.of_type(RingType.SPIN)
        rows = rows.where(np.lexsort((rows.ts_ns, rows.tid)))
        period_ns = np.minimum(rows.a, _LONGEST_PERIOD_NS).astype(np.int64)
        goes_on = (rows.tid[1:] == rows.tid[:-1]) & (np.diff(rows.ts_ns) < period_ns[1:] * 3 // 2)
        first = np.flatnonzero(np.concatenate([np.ones(min(len(rows), 1), np.bool_), ~goes_on]))
        last = np.append(first[1:], len(rows))[: len(first)] - 1
        return make_events(
            len(first),
            start_ns=np.maximum(rows.ts_ns[first] - period_ns[first], 0),
            end_ns=rows.ts_ns[last],
            track=self.threads.tracks_of(rows.tid[first]),
            kind=EventKind.SPIN,
            name=self._context.strings.intern("spin loop"),
            count=last - first + 1,
        )

    def allocator_calls(self) -> Events:
        """Return the allocator calls that were sent one by one."""
        rows = self._timed(RingType.MALLOC)
        return self._on_threads(
            rows,
            EventKind.MALLOC,
            name=self._intern(rows.a, lambda op: _at(MALLOC_OPS, op)),
            size_bytes=np.minimum(rows.c, _LARGEST_SIZE).astype(np.int64),
            detail=signed(rows.d),
        )

    def driver_calls(self) -> Events:
        """Return the calls of probed functions of the CUDA driver."""
        rows = self._timed(RingType.UPROBE)
        listed = self._ring.of_type(RingType.FUNCTION)
        texts = [self._ring.texts.get(text, "") for text in listed.tid.tolist()]
        names = dict(zip(listed.a.tolist(), map(short_function_name, texts), strict=True))
        name = self._intern(rows.a, lambda number: names.get(number) or f"function {number}")
        return self._on_threads(rows, EventKind.CUDA_API, name=name)

    def _timed(self, kind: RingType) -> Rows:
        """Return the rows whose `b` is a plausible duration."""
        rows = self._ring.of_type(kind)
        is_timely = rows.b < (LATEST_NS - rows.ts_ns).astype(np.uint64)
        self._context.quality.note(Issue.IMPLAUSIBLE_TIME, int((~is_timely).sum()))
        return rows.where(is_timely)

    def _on_threads(self, rows: Rows, kind: EventKind, **columns: object) -> Events:
        tracks = self.threads.tracks_of(rows.tid)
        end_ns = rows.ts_ns + signed(rows.b)
        return make_events(len(rows), start_ns=rows.ts_ns, end_ns=end_ns, track=tracks, kind=kind, **columns)

    def _on_anybody(self, rows: Rows, kind: EventKind, dur_ns: Words | None = None, **columns: object) -> Events:
        tracks = self.threads.tracks_of_anybody(rows.tid)
        end_ns = rows.ts_ns + (0 if dur_ns is None else signed(dur_ns))
        return make_events(len(rows), start_ns=rows.ts_ns, end_ns=end_ns, track=tracks, kind=kind, **columns)

    def _intern(self, numbers: Words, name_of: Callable[[int], str]) -> SmallInts:
        distinct, inverse = np.unique(numbers, return_inverse=True)
        ids = np.array([self._context.strings.intern(name_of(number)) for number in distinct.tolist()], np.int32)
        return ids[inverse] if len(ids) else np.zeros(0, np.int32)


def _moment_keys(moments: Ints, rows: Rows) -> Ints:
    """Return one number for each (time, thread); times that are none of `moments` share one with a neighbour."""
    keys: Ints = (np.searchsorted(moments, rows.ts_ns) << 23) | rows.tid
    return keys


def _at(names: tuple[str, ...], index: int) -> str:
    return names[index] if index < len(names) else f"function {index}"


def _losses(ring: Ring, source: str) -> list[Loss]:
    rows = ring.of_type(RingType.LOST)
    causes = {int(cause): cause.name.lower() for cause in LostCause}
    return [
        Loss(ts_ns, source, causes.get(cause, "unknown"), count)
        for ts_ns, cause, count in zip(rows.ts_ns.tolist(), rows.a.tolist(), rows.b.tolist(), strict=True)
    ]
