"""A trace of torch.profiler (Kineto's JSON) as a `Trace`: what it says, and what it cannot say.

Such a trace has no marks of requests: one window is explained, the whole of it, or one for each annotation of a name.
The file may come from anywhere: what is malformed is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..capture.layout import MARK_FIRST_TOKEN, MARK_REQUEST_START
from ..decode.base import clean_text
from ..errors import CaptureError, UsageError
from ..model.events import EventKind, Events, make_events, merge_events
from ..model.quality import Issue, Quality
from ..model.sched import empty_sched
from ..model.strings import Strings
from ..model.trace import LedgerLine, Trace
from ..model.tracks import GPU_PROCESS_SHIFT, TrackKind, Tracks
from .document import Document
from .kineto_names import copy_name, is_pinned, kind_of, stage_of

_LATEST_US = 2**62 / 1000
_LARGEST_ID = 1 << 31
_SOURCES = [
    {"name": "kineto", "status": "ok", "reason": ""},
    {
        "name": "ebpf",
        "status": "unavailable",
        "reason": "a profiler's trace has no scheduler, fault or I/O evidence: waits look like the code around them",
    },
    {
        "name": "ranges",
        "status": "unavailable",
        "reason": "no stages and no marks of load and requests: the window is what was profiled",
    },
]


@dataclass(frozen=True, slots=True)
class _Slice:
    """One complete event, checked."""

    kind: EventKind
    name: str
    start_ns: int
    end_ns: int
    pid: int
    tid: int
    device: int
    stream: int
    correlation: int
    size_bytes: int
    stage: int

    @property
    def is_on_gpu(self) -> bool:
        """Say whether it is work of a stream."""
        return self.kind in (EventKind.GPU_KERNEL, EventKind.GPU_MEMCPY, EventKind.GPU_MEMSET)


def read_kineto(document: Document, annotation: str = "") -> Trace:
    """Read a trace; with `annotation`, each annotation whose name begins so is a window.

    Raises:
        CaptureError: the file has nothing in it that can be explained.
        UsageError: no annotation has such a name.
    """
    quality = Quality()
    complete = [event for event in document.lists("traceEvents") if event.get("ph") == "X"]
    slices = list(_slices(complete, quality))
    if not any(not one.is_on_gpu for one in slices):
        raise CaptureError(f"{document.path} has no events of a CPU", hint="profile with ProfilerActivity.CPU")
    return _build(document, slices, annotation, quality)


def _slices(events: list[dict[str, Any]], quality: Quality) -> Iterator[_Slice]:
    for event in events:
        kind = kind_of(str(event.get("cat")), str(event.get("name")))
        if kind is None:
            continue
        one = _slice(kind, event)
        if one is None:
            quality.note(Issue.DAMAGED_RECORD)
        else:
            yield one


def _slice(kind: EventKind, event: dict[str, Any]) -> _Slice | None:
    ts, dur = event.get("ts"), event.get("dur")
    if not _is_time(ts) or not _is_time(dur):
        return None
    args = event.get("args")
    args = args if isinstance(args, dict) else {}
    start_ns = round(float(ts) * 1000)  # type: ignore[arg-type]
    name = clean_text(str(event.get("name"))[:4096].encode("utf-8", "replace"))
    return _Slice(
        kind=kind,
        name=copy_name(name) if kind is EventKind.GPU_MEMCPY else name,
        start_ns=start_ns,
        end_ns=start_ns + max(round(float(dur) * 1000), 0),  # type: ignore[arg-type]
        pid=_integer(event.get("pid")),
        tid=_integer(event.get("tid")),
        device=_integer(args.get("device")),
        stream=_integer(args.get("stream")),
        correlation=_integer(args.get("correlation")),
        size_bytes=_integer(args.get("bytes"), largest=1 << 62),
        stage=stage_of(str(event.get("cat"))),
    )


def _is_time(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value < _LATEST_US  # type: ignore[arg-type, operator]


def _integer(value: object, largest: int = _LARGEST_ID) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < largest else 0


def _build(document: Document, slices: list[_Slice], annotation: str, quality: Quality) -> Trace:
    tracks, strings = Tracks(), Strings()
    pid_of_call = {one.correlation: one.pid for one in slices if one.kind is EventKind.CUDA_API and one.correlation}
    main = _main_thread(slices)
    rows = [_track(tracks, one, pid_of_call.get(one.correlation, main[0])) for one in slices]
    versions = {"torch.profiler schema": str(document.objects[0].get("schemaVersion", ""))[:20]}
    n_damaged = quality.counts[Issue.DAMAGED_RECORD]
    return Trace(
        manifest={
            "status": "complete",
            "capture": {"id": document.digest, "engine": "torch.profiler", "model": "", "tier": "imported", "host": {}},
            "sources": _SOURCES,
            "state": {"versions": {"before": versions}},
        },
        events=merge_events([_events(slices, rows, strings), _marks(slices, annotation, main, tracks, strings)]),
        tracks=tracks,
        strings=strings,
        sched=empty_sched(),
        counters=[],
        ledger=[LedgerLine("kineto", len(slices) + n_damaged, len(slices) + n_damaged, len(slices), {})],
        losses=[],
        quality=quality,
    )


def _events(slices: list[_Slice], rows: list[int], strings: Strings) -> Events:
    return make_events(
        len(slices),
        start_ns=[one.start_ns for one in slices],
        end_ns=[one.end_ns for one in slices],
        track=rows,
        kind=[int(one.kind) for one in slices],
        stage=[one.stage for one in slices],
        name=[strings.intern(one.name) for one in slices],
        size_bytes=[one.size_bytes for one in slices],
        detail=[one.correlation for one in slices],
        flags=[int(one.kind is EventKind.GPU_MEMCPY and is_pinned(one.name)) for one in slices],
    )


def _track(tracks: Tracks, one: _Slice, pid: int) -> int:
    if one.is_on_gpu:
        key = pid << GPU_PROCESS_SHIFT | one.stream
        return tracks.other(TrackKind.GPU_STREAM, one.device, key, f"stream {one.stream}")
    return tracks.thread(one.tid, one.pid)


def _main_thread(slices: list[_Slice]) -> tuple[int, int]:
    """Return the (pid, tid) with the most time in events: the thread that a profile is made of."""
    spent_ns: dict[tuple[int, int], int] = {}
    for one in slices:
        if not one.is_on_gpu:
            key = (one.pid, one.tid)
            spent_ns[key] = spent_ns.get(key, 0) + one.end_ns - one.start_ns
    return max(sorted(spent_ns), key=lambda key: spent_ns[key])


def _marks(slices: list[_Slice], annotation: str, main: tuple[int, int], tracks: Tracks, strings: Strings) -> Events:
    """Mark the windows: each annotation of the name on its thread, or all of the trace on the main one."""
    if annotation:
        chosen = [one for one in slices if one.kind is EventKind.RANGE and one.name.startswith(annotation)]
        if not chosen:
            raise UsageError(f"no annotation begins with {annotation!r}", hint="leave --range out, or name another")
        windows = [(one.start_ns, one.end_ns, one.tid, one.pid) for one in sorted(chosen, key=lambda one: one.start_ns)]
    else:
        start_ns, end_ns = min(one.start_ns for one in slices), max(one.end_ns for one in slices)
        windows = [(start_ns, end_ns, main[1], main[0])]
    marks = [
        (ts_ns, tracks.thread(tid, pid), strings.intern(mark), strings.intern(f"request-{number}"))
        for number, (start_ns, end_ns, tid, pid) in enumerate(windows)
        for ts_ns, mark in ((start_ns, MARK_REQUEST_START), (end_ns, MARK_FIRST_TOKEN))
    ]
    ts, track, name, request = (list(column) for column in zip(*marks, strict=True))
    return make_events(
        len(marks), start_ns=ts, end_ns=ts, track=track, kind=int(EventKind.MARK), name=name, request=request
    )
