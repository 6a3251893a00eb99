"""From segments to a window's report: exact sums, counts, bytes, and which files, packages and functions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.events import NO_EVENT, EventKind, Ints
from ..model.report import CauseShare, StageShare, WindowReport
from ..model.segments import Segments
from ..model.taxonomy import Cause, Phase, Stage
from ..model.trace import Trace, Window
from .batch import add_batch
from .evidence import EvidenceBook
from .holders import holders
from .reads import DEVICE_WAITS, add_device_reads, device_reads
from .streams import WORK_KINDS

_CALLS = (EventKind.SYSCALL, EventKind.MALLOC, EventKind.CUDA_API, *WORK_KINDS)
_FIRST_USES = (Cause.MODULE_LOAD, Cause.LIBRARY_INIT, Cause.JIT_COMPILE)
_HELD = (Cause.GIL_WAIT, Cause.ARENA_WAIT)
_RANGES = (EventKind.RANGE, EventKind.IMPORT, EventKind.DLOPEN)
TOP = 8  # entries of each detail list
_PHASE_OF_CAUSE = np.zeros(256, np.uint8)
for _cause in Cause:
    _PHASE_OF_CAUSE[_cause] = _cause.phase


def build_window_report(window: Window, segments: Segments, off_path: Segments, book: EvidenceBook) -> WindowReport:
    """Sum the segments of a window exactly, by phase, by cause and by stage."""
    return WindowReport(
        kind=window.kind,
        index=window.index,
        request_id=window.request_id,
        note=window.note,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        phases=_by_phase(segments),
        causes=_causes(window, segments, book),
        stages=_stages(segments),
        overlapped=_by_phase(off_path),
        segments=segments,
    )


def _by_phase(segments: Segments) -> dict[Phase, int]:
    sums = _sum_by(_PHASE_OF_CAUSE[segments.cause], segments.dur_ns)
    return {phase: sums.get(int(phase), 0) for phase in Phase}


def _stages(segments: Segments) -> list[StageShare]:
    phase = _PHASE_OF_CAUSE[segments.cause]
    shares = []
    for stage in Stage:
        mine = segments.stage == stage
        if mine.any():
            sums = _sum_by(phase[mine], segments.dur_ns[mine])
            shares.append(StageShare(stage, sum(sums.values()), {p: sums.get(int(p), 0) for p in Phase}))
    return shares


def _causes(window: Window, segments: Segments, book: EvidenceBook) -> list[CauseShare]:
    shares = [_cause_share(cause, segments, book) for cause in Cause if (segments.cause == cause).any()]
    shares = add_device_reads(shares, device_reads(window, book.trace))
    shares = add_batch(shares, window, segments, book.trace)
    return sorted(shares, key=lambda share: (share.cause.phase, -share.ns, share.cause))


def _cause_share(cause: Cause, segments: Segments, book: EvidenceBook) -> CauseShare:
    mine = np.flatnonzero(segments.cause == cause)
    dur, event = segments.dur_ns[mine], segments.event[mine]
    counts, sizes = _counted(book.trace, event)
    # A wait has no bytes of its own: what the device read is added per file, from the page cache's own records.
    size_bytes = 0 if cause in DEVICE_WAITS else int(sizes.sum())
    detail: dict[str, Any] = {}
    if rate := _bytes_per_second(event, book.trace):
        detail["bytes_per_second"] = rate
    for key, rows in _detail_rows(cause, segments, mine, book):
        top = rows.top()
        if top:
            detail[key] = top
    return CauseShare(cause, int(dur.sum()), int(counts.sum()), size_bytes, detail)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Time by name, with how many events and bytes stand behind it."""

    names: list[str]
    inverse: NDArray[np.intp]
    ns: Ints
    count: Ints
    size_bytes: Ints

    def top(self) -> list[dict[str, Any]]:
        """Return the largest entries by time, ties by name."""
        sums = np.zeros((len(self.names), 3), np.int64)
        np.add.at(sums, self.inverse, np.stack([self.ns, self.count, self.size_bytes], axis=1))
        rows: list[dict[str, Any]] = [
            {"name": name, "ns": ns, "count": count, "bytes": size_bytes}
            for name, (ns, count, size_bytes) in zip(self.names, sums.tolist(), strict=True)
            if name
        ]
        return sorted(rows, key=_by_time_then_name)[:TOP]


def _by_time_then_name(row: dict[str, Any]) -> tuple[int, str]:
    return -int(row["ns"]), str(row["name"])


def _detail_rows(
    cause: Cause, segments: Segments, mine: NDArray[np.intp], book: EvidenceBook
) -> Iterable[tuple[str, _Rows]]:
    """Yield what a cause's time was spent on: files, packages, functions, and the ranges that it happened in.

    Also the processes, where the window has more than one.
    """
    trace = book.trace
    events = trace.events
    event = segments.event[mine]
    known = mine[event != NO_EVENT]
    rows = segments.event[known]
    if (cause.phase is Phase.STORAGE or cause is Cause.OTHER_SYSCALL) and len(rows):
        yield "files", _rows_by(trace, events.file[rows], segments, known)
    if cause in _HELD:
        yield "holders", _rows_by(trace, holders(segments, mine, book), segments, mine)
    if cause is Cause.IMPORT and len(rows):
        yield "packages", _packages(trace, rows, segments, known)
    elif len(rows):
        is_call = np.isin(events.kind[rows], _CALLS)
        if is_call.any():
            yield "functions", _rows_by(trace, events.name[rows[is_call]], segments, known[is_call])
    if cause in _FIRST_USES:
        yield "kernels", _rows_by(trace, _kernels_after(segments, mine, book), segments, mine)
    yield "ranges", _rows_by(trace, _range_names(segments, mine, book), segments, mine)
    if len({trace.tracks[track].pid for track in np.unique(segments.track).tolist()}) > 1:
        yield "processes", _rows_by(trace, _process_names(segments, mine, trace), segments, mine)


def _rows_by(trace: Trace, name_ids: NDArray[np.int32], segments: Segments, which: NDArray[np.intp]) -> _Rows:
    distinct, inverse = np.unique(name_ids, return_inverse=True)
    count, size_bytes = _counted(trace, segments.event[which])
    names = [trace.strings[name_id] for name_id in distinct.tolist()]
    return _Rows(names, inverse, segments.dur_ns[which], count, size_bytes)


def _counted(trace: Trace, event: Ints) -> tuple[Ints, Ints]:
    """Return how many things each segment stands for, and their bytes.

    An event that was cut into many segments counts at its first one alone; a stretch without an event counts as one. A
    range says where the time went, not how often: it counts once, without its bytes.
    """
    count, size_bytes = np.zeros(len(event), np.int64), np.zeros(len(event), np.int64)
    distinct, first = np.unique(event, return_index=True)
    first = first[distinct != NO_EVENT]
    rows = event[first]
    is_range = np.isin(trace.events.kind[rows], _RANGES)
    count[event == NO_EVENT] = 1
    count[first] = np.where(is_range, 1, trace.events.count[rows])
    size_bytes[first] = np.where(is_range, 0, trace.events.size_bytes[rows])
    return count, size_bytes


def _packages(trace: Trace, rows: Ints, segments: Segments, which: NDArray[np.intp]) -> _Rows:
    """Sum import time by top-level package; the dlopen of extension modules apart."""
    # One number a row: its name's, and whether it is a dlopen.
    keys = trace.events.name[rows].astype(np.int64) << 1 | (trace.events.kind[rows] == EventKind.DLOPEN)
    distinct, of_key = np.unique(keys, return_inverse=True)
    texts = []
    for key in distinct.tolist():
        package = trace.strings[key >> 1].partition(".")[0]
        texts.append(f"{package} (dlopen)" if key & 1 else package)
    row_by_text = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    inverse = np.array([row_by_text[text] for text in texts], np.intp)[of_key]
    count, _ = _counted(trace, rows)
    return _Rows(list(row_by_text), inverse, segments.dur_ns[which], count, np.zeros(len(rows), np.int64))


def _kernels_after(segments: Segments, which: NDArray[np.intp], book: EvidenceBook) -> NDArray[np.int32]:
    """Return the name of the first kernel that ran after each segment: what was loaded was loaded for it."""
    names = np.zeros(len(which), np.int32)
    pids = np.array([book.trace.tracks[track].pid for track in segments.track[which].tolist()], np.int64)
    for pid in np.unique(pids).tolist():
        if pid in book.gpu:
            rows = book.gpu[pid].next_kernels(segments.end_ns[which[pids == pid]])
            names[pids == pid] = np.where(rows == NO_EVENT, 0, book.trace.events.name[rows])
    return names


def _bytes_per_second(rows: Ints, trace: Trace) -> int:
    """Return how fast these copies were, over their whole lengths; 0 if they copied nothing."""
    copies = np.unique(rows[rows != NO_EVENT])
    copies = copies[trace.events.kind[copies] == EventKind.GPU_MEMCPY]
    took_ns = int((trace.events.end_ns - trace.events.start_ns)[copies].sum())
    return int(trace.events.size_bytes[copies].sum()) * 1_000_000_000 // took_ns if took_ns else 0


def _range_names(segments: Segments, which: NDArray[np.intp], book: EvidenceBook) -> NDArray[np.int32]:
    """Return the name of the innermost range around each segment, 0 where there is none."""
    names = np.zeros(len(which), np.int32)
    tracks = segments.track[which]
    for track in np.unique(tracks).tolist():
        mine = tracks == track
        owner = book.ranges(track).at(segments.start_ns[which[mine]])
        names[mine] = _names_of_ranges(owner, book.trace)
    return names


def _process_names(segments: Segments, which: NDArray[np.intp], trace: Trace) -> NDArray[np.int32]:
    """Return the name of the process of each segment."""
    tracks, inverse = np.unique(segments.track[which], return_inverse=True)
    threads = [trace.tracks[track] for track in tracks.tolist()]
    names = [trace.strings.intern(thread.process or f"process {thread.pid}") for thread in threads]
    return np.array(names, np.int32)[inverse]


def _names_of_ranges(owner: Ints, trace: Trace) -> NDArray[np.int32]:
    names = np.zeros(len(owner), np.int32)
    known = np.flatnonzero(owner != NO_EVENT)
    known = known[trace.events.kind[owner[known]] == EventKind.RANGE]
    names[known] = trace.events.name[owner[known]]
    return names


def _sum_by(keys: NDArray[Any], values: NDArray[Any]) -> dict[int, int]:
    """Sum integers by key, exactly."""
    distinct, inverse = np.unique(keys, return_inverse=True)
    sums = np.zeros(len(distinct), np.int64)
    np.add.at(sums, inverse, values.astype(np.int64))
    return dict(zip(distinct.tolist(), sums.tolist(), strict=True))
