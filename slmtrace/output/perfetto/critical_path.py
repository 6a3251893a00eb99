"""The group `slmtrace`: the windows with their stages, the phases, the critical path, and what was lost."""

from __future__ import annotations

import numpy as np

from ...model.events import NO_EVENT, Ints
from ...model.report import Report, WindowReport
from ...model.taxonomy import Cause, Phase, Stage, WindowKind
from ...model.trace import Trace
from ...model.tracks import NO_TRACK, TrackKind
from ...units import format_ns, format_share
from .emit import Arg, EventWriter, Slices, unless
from .flows import FIRST_HOP_FLOW
from .groups import Groups, thread_name
from .labels import event_names, texts
from .nesting import spread
from .runs import Runs, all_segments, first_within, merge

GROUP = "slmtrace"
_PHASE_OF_CAUSE = np.zeros(256, np.int64)
for _cause in Cause:
    _PHASE_OF_CAUSE[_cause] = _cause.phase


def write_critical_path(writer: EventWriter, groups: Groups, trace: Trace, report: Report) -> None:
    """Write the group `slmtrace`, and on each thread that the path visits where it does."""
    root = writer.track(GROUP, is_ordered=True, description="why the time went: slmtrace's attribution")
    start = np.array([window.start_ns for window in report.windows], np.int64)
    end = np.array([window.end_ns for window in report.windows], np.int64)
    row_of_window = spread(np.zeros(len(start), np.int64), start, end)  # requests in flight together overlap
    tracks = {
        name: _track_rows(writer, root, rank, name, description, row_of_window)
        for rank, (name, description) in enumerate(_TRACKS.items())
    }
    segments, window = all_segments(report)
    if len(segments):
        _write_phases(writer, merge(segments, window, [_PHASE_OF_CAUSE[segments.cause]]), tracks["phases"])
        path = merge(segments, window, [segments.stage, segments.cause, segments.track])
        _write_path(writer, trace, report, path, tracks["critical path"])
        _write_visits(writer, groups, trace, report, merge(segments, window, [segments.track]))
    # After the path, which is longer: the texts that are interned first have the shortest ids.
    _write_windows(writer, report, tracks["windows"])
    _write_losses(writer, trace, root, rank=len(_TRACKS))


_TRACKS = {
    "windows": "what is explained: load, and one time to first token (ttft) per request; below each, its stages",
    "phases": "the critical path by phase; the colours are those of the track below",
    "critical path": "what held the window up, as 'stage: cause'; the slices of a window sum to its length",
}


def _track_rows(writer: EventWriter, root: int, rank: int, name: str, description: str, row_of_window: Ints) -> Ints:
    """Return the uuid of each window's track: windows that overlap have one each, under one name."""
    uuids = [
        writer.track(name, parent=root, rank=rank, description=description)
        for _ in range(int(row_of_window.max(initial=0)) + 1)
    ]
    return np.array(uuids, np.int64)[row_of_window]


def _write_windows(writer: EventWriter, report: Report, tracks: Ints) -> None:
    """Write the windows, and nested in them the stages, merged over whatever interrupts them for no time."""
    windows = report.windows
    has_load = any(one.kind is WindowKind.LOAD for one in windows)
    window_names = [writer.name(_window_name(one, has_load=has_load)) for one in windows]
    segments, window = all_segments(report)
    stages = merge(segments, window, [segments.stage])
    stage_names = [writer.name(Stage(stage).label) for stage in segments.stage[stages.first].tolist()]
    args = [_window_args(writer, one) for one in windows]
    names = list(args[0]) if args else []
    padding = np.zeros(len(stages.window), np.int64)
    writer.slices(
        Slices(
            track=np.concatenate([tracks, tracks[stages.window]]),
            start_ns=np.concatenate([_ints([one.start_ns for one in windows]), stages.start_ns]),
            end_ns=np.concatenate([_ints([one.end_ns for one in windows]), stages.end_ns]),
            name=np.concatenate([_ints(window_names), _ints(stage_names)]),
            category="window",
            args=[
                Arg(name, np.concatenate([_ints([one[name] for one in args]), padding]), is_text=True) for name in names
            ],
        )
    )


def _window_name(window: WindowReport, *, has_load: bool) -> str:
    # Without the load, as of a server that was attached to, there may have been requests before.
    suffix = " (first use)" if has_load and window.kind is WindowKind.TTFT and window.index == 0 else ""
    return f"{window.label}{suffix}: {format_ns(window.total_ns)}"


def _window_args(writer: EventWriter, window: WindowReport) -> dict[str, int]:
    """Return a window's arguments as interned texts, 0 for what it does not have."""
    args = {"total": writer.text(format_ns(window.total_ns))}
    for phase in Phase:
        ns = window.phases.get(phase, 0)
        shown = f"{format_ns(ns)} ({format_share(ns, window.total_ns)})"
        args[phase.label] = writer.text(shown) if ns else 0
    args["request"] = writer.text(window.request_id) if window.request_id else 0
    args["note"] = writer.text(window.note) if window.note else 0
    return args


def _write_phases(writer: EventWriter, runs: Runs, tracks: Ints) -> None:
    phases = _PHASE_OF_CAUSE[runs.segments.cause[runs.first]]
    name_by_phase = _ints([writer.name(phase.label) for phase in Phase])
    writer.slices(
        Slices(
            track=tracks[runs.window],
            start_ns=runs.start_ns,
            end_ns=runs.end_ns,
            name=name_by_phase[phases],
            category="phase",
            correlation=_COLOUR_OF_PHASE[phases],
        )
    )


def _write_path(writer: EventWriter, trace: Trace, report: Report, runs: Runs, tracks: Ints) -> None:
    segments = runs.segments
    stage, cause = segments.stage[runs.first], segments.cause[runs.first]
    phases = _PHASE_OF_CAUSE[cause]
    distinct, inverse = np.unique(stage.astype(np.int64) << 8 | cause, return_inverse=True)
    names = [writer.name(f"{Stage(key >> 8).label}: {Cause(key & 0xFF).label}") for key in distinct.tolist()]
    phase_text = _ints([writer.text(phase.label) for phase in Phase])
    # The load's stretches do not say so: they are nearly all there are.
    window_text = _ints([0 if one.kind is WindowKind.LOAD else writer.text(one.label) for one in report.windows])
    thread_text = _ints([writer.text(_track_text(trace, row)) for row in range(len(trace.tracks))] + [0])
    writer.slices(
        Slices(
            track=tracks[runs.window],
            start_ns=runs.start_ns,
            end_ns=runs.end_ns,
            name=_ints(names)[inverse],
            category="critical_path",
            args=[
                Arg("window", window_text[runs.window], is_text=True),
                Arg("phase", phase_text[phases], is_text=True),
                Arg("on", thread_text[segments.track[runs.first]], is_text=True),
                *_evidence_args(writer, trace, runs),
            ],
            correlation=_COLOUR_OF_PHASE[phases],
        )
    )


def _evidence_args(writer: EventWriter, trace: Trace, runs: Runs) -> list[Arg]:
    """Return what the events behind each run say: which came first, how many, how many bytes, which file."""
    event = runs.segments.event.astype(np.int64)
    known = np.flatnonzero(event != NO_EVENT)
    # An event interrupted by another explains several segments; it counts once, where it appears first.
    _, first_seen = np.unique(event[known], return_index=True)
    is_new = np.zeros(len(event), np.int64)
    is_new[known[first_seen]] = 1
    size_bytes, file = np.zeros(len(event), np.int64), np.zeros(len(event), np.int64)
    size_bytes[known] = np.maximum(trace.events.size_bytes[event[known]], 0)
    file[known] = trace.events.file[event[known]]
    # The run's first known event and file: a run's segments are neighbours, so the first at or after its start.
    first_event = first_within(runs, event != NO_EVENT)
    first_file = first_within(runs, file != 0)
    name = np.zeros(len(runs.first), np.int64)
    named = first_event >= 0
    name[named] = _event_texts(writer, trace, event[first_event[named]])
    n_events = np.add.reduceat(is_new, runs.first)
    file_id = np.where(first_file >= 0, file[np.maximum(first_file, 0)], 0)
    return [
        Arg("event", name, is_text=True),
        Arg("events", unless(n_events, n_events == 1)),
        Arg("bytes", np.add.reduceat(size_bytes * is_new, runs.first)),
        Arg("file", texts(writer, file_id, trace.strings), is_text=True),
    ]


def _event_texts(writer: EventWriter, trace: Trace, rows: Ints) -> Ints:
    """Return the events' names as argument texts."""
    shown: dict[int, int] = {}
    events = trace.events.take(rows)
    names = event_names(writer, events, trace.strings)
    for name in np.unique(names).tolist():
        shown[name] = writer.text(writer.name_text(name))
    return _ints([shown[name] for name in names.tolist()])


def _write_visits(writer: EventWriter, groups: Groups, trace: Trace, report: Report, runs: Runs) -> None:
    """Write on each thread and stream where the path visits it, with an arrow from visit to visit."""
    track = runs.segments.track[runs.first].astype(np.int64)
    hops = np.flatnonzero((runs.window[1:] == runs.window[:-1]) & (track[1:] != track[:-1]))
    flow_out, flow_in = np.zeros(len(track), np.int64), np.zeros(len(track), np.int64)
    flow_out[hops] = flow_in[hops + 1] = FIRST_HOP_FLOW + hops
    on_track = np.flatnonzero(track != NO_TRACK)
    if not len(on_track):
        return
    # Windows that overlap visit a thread together: one row each.
    lane = spread(track[on_track], runs.start_ns[on_track], runs.end_ns[on_track])
    description = "here the window's critical path ran; arrows show how it came and where it went"
    uuids = [
        groups.lane(row, "on the critical path", description, sub_lane)
        for row, sub_lane in zip(track[on_track].tolist(), lane.tolist(), strict=True)
    ]
    names = _ints([writer.name(window.label) for window in report.windows])
    writer.slices(
        Slices(
            track=_ints(uuids),
            start_ns=runs.start_ns[on_track],
            end_ns=runs.end_ns[on_track],
            name=names[runs.window[on_track]],
            category="visit",
            flow_out=flow_out[on_track],
            flow_in=flow_in[on_track],
        )
    )


def _write_losses(writer: EventWriter, trace: Trace, root: int, rank: int) -> None:
    if not trace.losses:
        return
    track = writer.track("lost records", parent=root, rank=rank, description="where the recording lost records")
    ts = _ints([loss.ts_ns for loss in trace.losses])
    writer.instants(
        Slices(
            track=np.full(len(ts), track),
            start_ns=ts,
            end_ns=ts,
            name=_ints([writer.name(f"{loss.source}: lost {loss.count} ({loss.cause})") for loss in trace.losses]),
            category="loss",
            args=[
                Arg("source", _ints([writer.text(loss.source) for loss in trace.losses]), is_text=True),
                Arg("cause", _ints([writer.text(loss.cause) for loss in trace.losses]), is_text=True),
                Arg("count", _ints([loss.count for loss in trace.losses])),
            ],
        )
    )


def _track_text(trace: Trace, row: int) -> str:
    track = trace.tracks[row]
    if track.kind == TrackKind.THREAD:
        return f"{thread_name(track.name, track.tid)} ({track.tid})"
    if track.kind == TrackKind.GPU_STREAM:
        return f"GPU {track.pid} {track.name}"
    return track.name or f"{track.kind.name.lower()} {track.tid}"


def _ints(values: list[int]) -> Ints:
    return np.array(values, np.int64)


# The UI takes a slice's colour from a hash of its correlation id. By trial in v52: blue, orange, magenta, crimson,
# violet, green, lime and brown.
_COLOUR_OF_PHASE = _ints([19, 12, 49, 61, 9, 48, 8, 70])
