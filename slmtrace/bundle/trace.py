"""A trace with every text replaced by its redacted form. Times, tracks and everything else that counts stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..model.events import EventKind, Events, SmallInts
from ..model.strings import Strings
from ..model.trace import CounterSeries, LedgerLine, Loss, Trace
from ..model.tracks import TrackKind, Tracks
from . import words
from .names import Names

Redact = Callable[[str], str]
_UNITS = frozenset({"ns", "us", "count", "bytes", "kB", "MHz", "mW", "%", "C", "bits", "pstate", "kB/s", "W", "pages"})


def redact_trace(trace: Trace, names: Names) -> Trace:
    """Return a trace that says when, on what and why, and of names only those on the allow-lists."""
    strings = Strings()
    return replace(
        trace,
        manifest=_redact_manifest(trace.manifest),
        events=_redact_events(trace.events, trace.strings, strings, names),
        tracks=_redact_tracks(trace.tracks, names),
        strings=strings,
        counters=[_redact_counter(series, names) for series in trace.counters],
        ledger=[_redact_ledger(line) for line in trace.ledger],
        losses=[
            Loss(loss.ts_ns, known_source(loss.source), _known_cause(loss.cause), loss.count) for loss in trace.losses
        ],
        clock_residual_ns={name: ns for name, ns in trace.clock_residual_ns.items() if words.is_key(name)},
        clock_snapshots=[
            {key: int(ns) for key, ns in one.items() if key in ("monotonic_ns", "boottime_ns", "realtime_ns")}
            for one in trace.clock_snapshots
        ],
    )


def known_source(name: object) -> str:
    """Return a source's name, if it is one of ours."""
    return str(name) if name in words.SOURCES else "other"


def redact_lost(lost: dict[str, int]) -> dict[str, int]:
    """Return losses by cause."""
    sums: dict[str, int] = {}
    for cause, count in lost.items():
        sums[_known_cause(cause)] = sums.get(_known_cause(cause), 0) + int(count)
    return sums


def _known_cause(cause: str) -> str:
    return cause if cause in words.LOST_CAUSES else "other"


def _redact_manifest(manifest: dict[str, Any]) -> dict[str, Any]:
    target = manifest.get("target") or {}
    times = {
        key: target[key] for key in ("pid", "start_ns", "attached_ns", "end_ns") if isinstance(target.get(key), int)
    }
    return {"target": times, "status": "complete" if manifest.get("status") == "complete" else "aborted"}


def _redact_by_kind(names: Names) -> dict[EventKind, Redact]:
    """Return how the name of each kind of event is redacted; other kinds lose it."""
    kind = EventKind
    return {
        **dict.fromkeys((kind.RANGE, kind.ASYNC), names.range),
        **dict.fromkeys((kind.IMPORT, kind.DLOPEN), names.module),
        **dict.fromkeys((kind.MARK, kind.FOLD, kind.BLOCK_IO, kind.MALLOC), names.ours),
        **dict.fromkeys((kind.CUDA_API, kind.GPU_SYNC), names.cuda_call),
        **dict.fromkeys((kind.GPU_KERNEL, kind.GPU_MEMCPY, kind.GPU_MEMSET), names.kernel),
        kind.SYSCALL: names.system_call,
        kind.SAMPLE: names.stack,
    }


def _redact_events(events: Events, texts: Strings, strings: Strings, names: Names) -> Events:
    redact_by_kind = _redact_by_kind(names)
    name = np.zeros(len(events), np.int32)
    for kind in np.unique(events.kind).tolist():
        redact = redact_by_kind.get(EventKind(kind)) if kind in EventKind.__members__.values() else None
        rows = np.flatnonzero(events.kind == kind)
        if redact is not None:
            name[rows] = _map(events.name[rows], texts, strings, redact)
    return replace(
        events,
        name=name,
        file=_map(events.file, texts, strings, names.path),
        request=_map(events.request, texts, strings, names.request),
    )


def _map(ids: SmallInts, texts: Strings, strings: Strings, redact: Redact) -> SmallInts:
    distinct, inverse = np.unique(ids, return_inverse=True)
    found = [strings.intern(redact(texts[one])) if one else 0 for one in distinct.tolist()]
    return np.array(found, np.int32)[inverse].reshape(ids.shape)


def _redact_tracks(tracks: Tracks, names: Names) -> Tracks:
    redacted = Tracks()
    for track in (tracks[row] for row in range(len(tracks))):
        if track.kind is TrackKind.THREAD:
            row = redacted.thread(track.tid, track.pid)
            redacted.update(row, name=names.thread(track.name), process=names.thread(track.process))
        elif track.kind is TrackKind.BLOCK_DEVICE:
            redacted.other(track.kind, track.pid, track.tid, names.block_device(track.name))
        elif track.kind is TrackKind.GPU_STREAM:
            redacted.other(track.kind, track.pid, track.tid, names.stream(track.name))
        elif track.kind is TrackKind.SYSTEM:
            redacted.other(track.kind, track.pid, track.tid, names.thread(track.name))
        else:
            redacted.other(track.kind, track.pid, track.tid)
    return redacted


def _redact_counter(series: CounterSeries, names: Names) -> CounterSeries:
    return replace(series, name=names.counter(series.name), unit=series.unit if series.unit in _UNITS else "count")


def _redact_ledger(line: LedgerLine) -> LedgerLine:
    return replace(line, source=known_source(line.source), lost=redact_lost(line.lost))
