"""From segments to a window's report: exact sums, counts, bytes, and which files, packages and functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.events import NO_EVENT, EventKind, Ints, SmallInts, distinct_rows, is_among
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


def build_window_report(
    window: Window, segments: Segments, off_path: Iterable[Segments], book: EvidenceBook
) -> WindowReport:
    """Sum the segments of a window exactly, by phase, by cause and by stage; those beside the path by phase alone."""
    on_path = _by_stage_and_phase([segments])
    return WindowReport(
        kind=window.kind,
        index=window.index,
        request_id=window.request_id,
        note=window.note,
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        phases=_by_phase(on_path.sum(axis=0)),
        causes=_causes(window, segments, book),
        stages=[StageShare(s, int(on_path[s].sum()), _by_phase(on_path[s])) for s in Stage if on_path[s].any()],
        overlapped=_by_phase(_by_stage_and_phase(off_path).sum(axis=0)),
        segments=segments,
    )


def _by_stage_and_phase(parts: Iterable[Segments]) -> Ints:
    """Return the time of each stage in each phase, exactly; by their values."""
    n_phases = max(Phase) + 1
    sums = np.zeros(256 * n_phases, np.int64)
    for part in parts:
        np.add.at(sums, part.stage.astype(np.intp) * n_phases + _PHASE_OF_CAUSE[part.cause], part.dur_ns)
    return sums.reshape(256, n_phases)


def _by_phase(sums: Ints) -> dict[Phase, int]:
    return {phase: int(sums[phase]) for phase in Phase}


def _causes(window: Window, segments: Segments, book: EvidenceBook) -> list[CauseShare]:
    places = {"ranges": _range_names(segments, book), "processes": _process_names(segments, book.trace)}
    causes = [Cause(cause) for cause in np.flatnonzero(np.bincount(segments.cause)).tolist()]
    shares = [_cause_share(cause, segments, places, book) for cause in causes]
    shares = add_device_reads(shares, device_reads(window, book.trace))
    shares = add_batch(shares, window, segments, book.trace)
    return sorted(shares, key=lambda share: (share.cause.phase, -share.ns, share.cause))


def _cause_share(cause: Cause, segments: Segments, places: dict[str, SmallInts], book: EvidenceBook) -> CauseShare:
    mine = np.flatnonzero(segments.cause == cause)
    event = segments.event[mine]
    known = np.flatnonzero(event != NO_EVENT)
    rows = event[known].astype(np.int64)
    amounts = _amounts(segments.end_ns[mine] - segments.start_ns[mine], known, rows, book.trace)
    ns, count, size_bytes = amounts.sum(axis=1).tolist()
    detail: dict[str, Any] = _copies(rows, book.trace)
    for key, names, which in _details(cause, segments, mine, known, rows, book):
        if top := _top(names, amounts[:, which], book.trace):
            detail[key] = top
    for key, names in places.items():
        if top := _top(names[mine], amounts, book.trace):
            detail[key] = top
    # A wait has no bytes of its own: what the device read is added per file, from the page cache's own records.
    return CauseShare(cause, ns, count, 0 if cause in DEVICE_WAITS else size_bytes, detail)


def _amounts(dur_ns: Ints, known: NDArray[np.intp], rows: Ints, trace: Trace) -> Ints:
    """Return three numbers for each segment of a cause: its ns, how many things it stands for, and their bytes.

    `known` are those with an event, `rows` their events. An event that was cut into many segments counts at its first
    one alone; a stretch without an event counts as one. A range says where the time went, not how often: it counts
    once, without its bytes.
    """
    amounts = np.stack([dur_ns, np.ones(len(dur_ns), np.int64), np.zeros(len(dur_ns), np.int64)])
    is_first = _is_first(rows)
    is_first_call = np.flatnonzero(is_first & ~is_among(_RANGES)[trace.events.kind[rows]])
    amounts[1, known] = is_first
    amounts[1:, known[is_first_call]] = [
        trace.events.count[rows[is_first_call]],
        trace.events.size_bytes[rows[is_first_call]],
    ]
    return amounts


def _is_first(rows: Ints) -> NDArray[np.bool_]:
    """Say of each row whether the same one was not there before."""
    if not len(rows):
        return np.empty(0, np.bool_)
    lowest = rows.min()
    numbers, position = np.arange(len(rows)), np.empty(rows.max() - lowest + 1, np.int64)
    # Of many values for one place, numpy leaves the last.
    position[rows[::-1] - lowest] = numbers[::-1]
    is_first: NDArray[np.bool_] = position[rows - lowest] == numbers
    return is_first


def _top(names: SmallInts, amounts: Ints, trace: Trace) -> list[dict[str, Any]]:
    """Return the largest sums by name (string ids, 0: none) by time, ties by name."""
    distinct, inverse = distinct_rows(names)
    if not distinct.any():
        return []
    sums = np.zeros((len(amounts), len(distinct)), np.int64)
    for total, amount in zip(sums, amounts, strict=True):
        np.add.at(total, inverse, amount)
    rows: list[dict[str, Any]] = [
        {"name": trace.strings[name], "ns": ns, "count": count, "bytes": size_bytes}
        for name, ns, count, size_bytes in zip(distinct.tolist(), *sums.tolist(), strict=True)
        if name
    ]
    return sorted(rows, key=lambda row: (-row["ns"], row["name"]))[:TOP]


def _details(
    cause: Cause,
    segments: Segments,
    mine: NDArray[np.intp],
    known: NDArray[np.intp],
    rows: Ints,
    book: EvidenceBook,
) -> Iterable[tuple[str, SmallInts, NDArray[np.intp] | slice]]:
    """Yield what a cause's time was spent on: files, holders, packages, functions and kernels.

    Each is a key, and the names (string ids) of some of its segments, which are `mine`; the `known` of them have
    events, which are `rows`.
    """
    events = book.trace.events
    if (cause.phase is Phase.STORAGE or cause is Cause.OTHER_SYSCALL) and len(rows):
        yield "files", events.file[rows], known
    if cause in _HELD:
        yield "holders", holders(segments, mine, book), slice(None)
    if cause is Cause.IMPORT and len(rows):
        yield "packages", _packages(rows, book.trace), known
    elif len(rows):
        calls = np.flatnonzero(is_among(_CALLS)[events.kind[rows]])
        if len(calls):
            yield "functions", events.name[rows[calls]], known[calls]
    if cause in _FIRST_USES:
        yield "kernels", _kernels_after(segments, mine, book), slice(None)


def _packages(rows: Ints, trace: Trace) -> SmallInts:
    """Return the top-level package of each import; the dlopen of extension modules apart."""
    # One number a row: its name's, and whether it is a dlopen.
    keys = trace.events.name[rows].astype(np.int64) << 1 | (trace.events.kind[rows] == EventKind.DLOPEN)
    distinct, inverse = np.unique(keys, return_inverse=True)
    packages = [trace.strings[key >> 1].partition(".")[0] + " (dlopen)" * (key & 1) for key in distinct.tolist()]
    return np.array([trace.strings.intern(package) for package in packages], np.int32)[inverse]


def _kernels_after(segments: Segments, which: NDArray[np.intp], book: EvidenceBook) -> SmallInts:
    """Return the name of the first kernel that ran after each segment: what was loaded was loaded for it."""
    names = np.zeros(len(which), np.int32)
    pids = book.trace.tracks.pids()[segments.track[which]]
    for pid in np.unique(pids).tolist():
        if pid in book.gpu:
            rows = book.gpu[pid].next_kernels(segments.end_ns[which[pids == pid]])
            names[pids == pid] = np.where(rows == NO_EVENT, 0, book.trace.events.name[rows])
    return names


def _copies(rows: Ints, trace: Trace) -> dict[str, int]:
    """Return how fast these copies were, over their whole lengths, and the largest; nothing if there are none."""
    events = trace.events
    copies = np.unique(rows[events.kind[rows] == EventKind.GPU_MEMCPY])
    took_ns = int((events.end_ns[copies] - events.start_ns[copies]).sum())
    sizes = events.size_bytes[copies]
    if not took_ns or not sizes.any():
        return {}
    return {"bytes_per_second": int(sizes.sum()) * 1_000_000_000 // took_ns, "largest_bytes": int(sizes.max())}


def _range_names(segments: Segments, book: EvidenceBook) -> SmallInts:
    """Return the name of the innermost range around each segment, 0 where there is none."""
    names = np.zeros(len(segments), np.int32)
    for track in distinct_rows(segments.track)[0].tolist():
        mine = np.flatnonzero(segments.track == track)
        owner = book.ranges(track).at(segments.start_ns[mine])
        names[mine] = _names_of_ranges(owner, book.trace)
    return names


def _process_names(segments: Segments, trace: Trace) -> SmallInts:
    """Return the name of each segment's process, 0 everywhere if the window has but one."""
    tracks, inverse = distinct_rows(segments.track)
    threads = [trace.tracks[track] for track in tracks.tolist()]
    names = [trace.strings.intern(thread.process or f"process {thread.pid}") for thread in threads]
    return np.array(names if len(set(names)) > 1 else np.zeros(len(names)), np.int32)[inverse]


def _names_of_ranges(owner: Ints, trace: Trace) -> SmallInts:
    names = np.zeros(len(owner), np.int32)
    known = np.flatnonzero(owner != NO_EVENT)
    known = known[trace.events.kind[owner[known]] == EventKind.RANGE]
    names[known] = trace.events.name[owner[known]]
    return names
