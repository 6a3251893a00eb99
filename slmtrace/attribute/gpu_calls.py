"""The calls in which a thread waited for the GPU, and what its streams did meanwhile, as pieces of its time.

A host waits in a synchronising call, asleep or spinning alike, and in a copy of pageable memory (CUDA Driver API, "API
synchronization behavior"): whichever thread called it, a large one held up its process. Where no kernels were recorded,
what a wait waited for beside copies was kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.events import NO_EVENT, EventKind, Ints
from ..model.taxonomy import Cause
from ..model.tracks import GPU_PROCESS_SHIFT, NO_TRACK
from .evidence import EvidenceBook
from .rules import API_KINDS, Evidence, cause_of_work
from .streams import ProcessWork, Stretch, last_to_end
from .timeline import Timeline, empty_timeline

# The driver takes smaller copies from pageable memory into its command buffer and returns (64 KB, ibid.).
_BLOCKING_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Piece:
    """What a stretch of a thread's time in a call really was.

    `track` and `row` are those of the GPU's work, NO_TRACK and NO_EVENT where the host held it up. `launcher` is then
    the other thread that was to launch what came next, if that is known.
    """

    start_ns: int
    end_ns: int
    cause: Cause
    track: int = NO_TRACK
    row: int = NO_EVENT
    launcher: int = NO_TRACK
    is_guess: bool = False  # from the GPU's side alone: only what nothing finer explains is replaced


class Calls:
    """The calls of one process that have to do with its GPU work, by correlation id."""

    def __init__(self, book: EvidenceBook, work: ProcessWork, tracks: list[int]) -> None:
        self._book, self._trace, self._work = book, book.trace, work
        events = self._trace.events
        rows = np.concatenate([np.empty(0, np.int64), *(self._trace.rows_of_track(track) for track in tracks)])
        rows = rows[np.isin(events.kind[rows], API_KINDS) & (events.detail[rows] > 0)]
        self._call_of = dict(zip(events.detail[rows].tolist(), rows.tolist(), strict=True))
        is_copy = events.kind[work.rows] == EventKind.GPU_MEMCPY
        copies = work.rows[is_copy]
        self._copy_of = dict(zip(events.detail[copies].tolist(), copies.tolist(), strict=True))
        waits = rows[events.kind[rows] == EventKind.GPU_SYNC]
        self._stream_of = dict(zip(events.detail[waits].tolist(), events.flags[waits].tolist(), strict=True))
        self._blocking = self._blocking_copies(copies) if self._trace.sched.is_empty else empty_timeline()

    def pieces(self, track: int, low_ns: int, high_ns: int) -> Iterator[Piece]:
        """Yield what explains the waits of a thread between two times; disjoint, in no order."""
        for start_ns, end_ns, row in self._waits(track, low_ns, high_ns):
            if self._book.evidence[row] == Evidence.CUDA_SYNC:
                stream = self._stream_of.get(self._detail(row), 0)
                idle = Cause.LAUNCH if self._work.has_kernels else Cause.GPU_KERNEL
                yield from self._waited(track, start_ns, end_ns, stream, idle)
            else:
                yield from self._copied(track, start_ns, end_ns, row)

    def guesses(self, low_ns: int, high_ns: int) -> Iterator[Piece]:
        """Yield the copies between two times that blocked some thread, where no scheduler evidence says which."""
        copies = self._blocking
        inside = np.flatnonzero((copies.end_ns > low_ns) & (copies.start_ns < high_ns))
        columns = (copies.start_ns[inside], copies.end_ns[inside], copies.owner[inside])
        for start_ns, end_ns, row in zip(*(column.tolist() for column in columns), strict=True):
            yield self._worked(max(start_ns, low_ns), min(end_ns, high_ns), row, is_guess=True)

    def _waits(self, track: int, low_ns: int, high_ns: int) -> Iterator[tuple[int, int, int]]:
        """Yield the outermost waiting calls, cut to the times."""
        events = self._trace.events
        rows = self._trace.rows_of_track(track)
        is_wait = (
            np.isin(events.kind[rows], API_KINDS) & (events.start_ns[rows] < high_ns) & (events.end_ns[rows] > low_ns)
        )
        is_wait &= np.isin(self._book.evidence[rows], (Evidence.CUDA_SYNC, Evidence.CUDA_COPY))
        rows = rows[is_wait]
        until_ns = low_ns
        for start_ns, end_ns, row in zip(
            events.start_ns[rows].tolist(), events.end_ns[rows].tolist(), rows, strict=True
        ):
            begin_ns, finish_ns = max(start_ns, until_ns), min(end_ns, high_ns)
            if finish_ns > begin_ns:
                until_ns = finish_ns
                yield begin_ns, finish_ns, int(row)

    def _copied(self, track: int, start_ns: int, end_ns: int, row: int) -> Iterator[Piece]:
        """Explain a call that copies: what came before the copy, the copy, and the driver's own copying."""
        events = self._trace.events
        copy = self._copy_of.get(self._detail(row))
        if copy is None:
            return
        name = self._name(copy)
        is_async = self._name(row).endswith("Async") and "pageable" not in name
        if is_async or ("h2d" in name and events.size_bytes[copy] <= _BLOCKING_BYTES):
            yield Piece(start_ns, end_ns, Cause.LAUNCH if is_async else Cause.STAGING_COPY)
            return
        begin_ns = min(max(int(events.start_ns[copy]), start_ns), end_ns)
        finish_ns = max(min(int(events.end_ns[copy]), end_ns), begin_ns)
        number = self._trace.tracks[int(events.track[copy])].tid & ((1 << GPU_PROCESS_SHIFT) - 1)
        is_after_kernels = "d2h" in name and not self._work.has_kernels
        idle = Cause.GPU_KERNEL if is_after_kernels else Cause.STAGING_COPY
        yield from self._waited(track, start_ns, begin_ns, number, idle)
        yield self._worked(begin_ns, finish_ns, copy)
        yield Piece(finish_ns, end_ns, Cause.STAGING_COPY)

    def _waited(self, track: int, start_ns: int, end_ns: int, stream: int, idle: Cause) -> Iterator[Piece]:
        """Follow the streams backwards through a wait; `idle` is what the host's own part of it is."""
        for stretch in self._work.held_up(start_ns, end_ns, stream):
            if stretch.row != NO_EVENT:
                yield self._worked(stretch.start_ns, stretch.end_ns, stretch.row)
            else:
                yield from self._idled(track, stretch, idle)

    def _idled(self, track: int, gap: Stretch, idle: Cause) -> Iterator[Piece]:
        """Explain a stretch without GPU work: until it had launched what came next, another thread held it up."""
        call = self._call_of.get(self._detail(gap.next_row)) if gap.next_row != NO_EVENT else None
        launcher = NO_TRACK if call is None else int(self._trace.events.track[call])
        launched_ns = gap.start_ns
        if call is not None and launcher != track:
            launched_ns = min(max(int(self._trace.events.end_ns[call]), gap.start_ns), gap.end_ns)
            yield Piece(gap.start_ns, launched_ns, idle, launcher=launcher)
        yield Piece(launched_ns, gap.end_ns, idle)

    def _worked(self, start_ns: int, end_ns: int, row: int, is_guess: bool = False) -> Piece:
        track = int(self._trace.events.track[row])
        return Piece(start_ns, end_ns, cause_of_work(self._name(row)), track, row, is_guess=is_guess)

    def _blocking_copies(self, copies: Ints) -> Timeline:
        events, strings = self._trace.events, self._trace.strings
        is_large = events.size_bytes[copies] > _BLOCKING_BYTES
        is_pageable = ["pageable" in strings[name] for name in events.name[copies].tolist()]
        rows = copies[is_large & np.array(is_pageable, np.bool_)]
        return last_to_end(events.start_ns[rows], events.end_ns[rows], rows)

    def _detail(self, row: int) -> int:
        return int(self._trace.events.detail[row])

    def _name(self, row: int) -> str:
        return self._trace.strings[int(self._trace.events.name[row])]


def is_coarse(evidence: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Say of which evidence a guess may take the time: a range says nothing of what its thread did."""
    coarse: NDArray[np.bool_] = np.isin(evidence, (Evidence.NONE, Evidence.RANGE))
    return coarse
