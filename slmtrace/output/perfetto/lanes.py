"""Events to lanes: which kinds share a lane of their track, what the lane is called, and which arguments they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...model.events import EventKind, Events, Ints
from ...model.trace import CounterSeries, Trace
from ...model.tracks import TrackKind
from ..plain import plain
from .emit import Arg, EventWriter, Slices, unless
from .flows import Flows
from .groups import RANGES, Groups
from .labels import event_names, stage_texts, texts
from .nesting import spread

_K = EventKind


@dataclass(frozen=True, slots=True)
class LaneSpec:
    """A lane: its name, its description, the kinds of events on it, their category and their arguments."""

    name: str
    description: str
    category: str
    kinds: tuple[EventKind, ...]
    args: tuple[str, ...] = ()
    overlaps: str = "nest"  # "nest": on a thread; "spread": side by side; "by_flag": one sub-lane a flag value


_SLICE_LANES = (
    LaneSpec(RANGES, "", "range", (_K.RANGE, _K.IMPORT, _K.DLOPEN), ("stage", "request", "bytes", "count")),
    LaneSpec("generators", "generators from first to last item", "range", (), ("stage", "busy_ns"), overlaps="spread"),
    LaneSpec(
        "CUDA API", "driver and runtime calls (CUPTI, or uprobes)", "cuda", (_K.CUDA_API, _K.GPU_SYNC), ("correlation",)
    ),
    LaneSpec("page faults", "page faults by what they touched (eBPF)", "memory", (_K.FAULT,)),
    LaneSpec(
        "compaction and reclaim",
        "the kernel made room for this thread's allocation (eBPF)",
        "memory",
        (_K.COMPACTION, _K.RECLAIM),
    ),
    LaneSpec("system calls", "system calls over the threshold (eBPF)", "syscall", (_K.SYSCALL,), ("bytes", "file")),
    LaneSpec("spin loops", "waited on a CPU for another thread (eBPF samples)", "scheduler", (_K.SPIN,)),
    LaneSpec("malloc", "slow allocator calls", "malloc", (_K.MALLOC,), ("bytes",)),
    LaneSpec(
        "short events, summed",
        "events too short to be recorded one by one: how many, and the time that they took together",
        "folded",
        (_K.FOLD,),
        ("count", "busy_ns", "bytes", "file"),
        overlaps="by_flag",
    ),
)
_TRACK_LANES = {
    TrackKind.REQUESTS: LaneSpec(
        "requests", "one row a request, stage by stage", "request", (_K.ASYNC,), ("stage", "request"), "spread"
    ),
    TrackKind.GPU_STREAM: LaneSpec(
        "{name}",
        "kernels, copies and fills (CUPTI)",
        "gpu",
        (_K.GPU_KERNEL, _K.GPU_MEMCPY, _K.GPU_MEMSET),
        ("bytes", "correlation"),
        "spread",
    ),
    TrackKind.BLOCK_DEVICE: LaneSpec(
        "{name}",
        "one row a request in flight, from issue to completion (eBPF)",
        "block",
        (_K.BLOCK_IO,),
        ("bytes", "sector"),
        "spread",
    ),
    TrackKind.SYSTEM: LaneSpec(
        "{name}", "work of a kernel thread (eBPF)", "memory", (_K.COMPACTION, _K.RECLAIM, _K.FAULT, _K.SYSCALL)
    ),
}
_INSTANT_KINDS = (_K.MARK, _K.NOTE, _K.KHUGEPAGED, _K.MIGRATE)
_OTHER_LANE = LaneSpec(
    "other events", "events of a kind that this track does not usually have", "other", (), (), "spread"
)
_COUNTER_UNITS = {"ns": "UNIT_TIME_NS", "count": "UNIT_COUNT", "bytes": "UNIT_SIZE_BYTES"}


def write_lanes(writer: EventWriter, groups: Groups, trace: Trace, flows: Flows) -> None:
    """Write every slice and instant of the event table."""
    kind_of_track = np.array([trace.tracks[row].kind for row in range(len(trace.tracks))], dtype=np.int64)[
        trace.events.track
    ]
    on_thread = kind_of_track == TrackKind.THREAD
    duration = trace.events.end_ns - trace.events.start_ns
    # A generator's life spans what others do between its items, so it cannot nest among the calls.
    is_generator = (trace.events.kind == _K.RANGE) & (trace.events.work_ns != duration)
    # Stack samples are written as such, by `samples`.
    left = ~np.isin(trace.events.kind, (*_INSTANT_KINDS, _K.SAMPLE))
    for spec in _SLICE_LANES:
        chosen = np.isin(trace.events.kind, spec.kinds) & ~is_generator if spec.kinds else is_generator
        _write_lane(writer, groups, trace, flows, spec, np.flatnonzero(chosen & on_thread))
        left &= ~(chosen & on_thread)
    for track_kind, spec in _TRACK_LANES.items():
        chosen = np.isin(trace.events.kind, spec.kinds) & (kind_of_track == track_kind)
        _write_lane(writer, groups, trace, flows, spec, np.flatnonzero(chosen))
        left &= ~chosen
    _write_lane(writer, groups, trace, flows, _OTHER_LANE, np.flatnonzero(left))
    _write_instants(writer, groups, trace, np.flatnonzero(np.isin(trace.events.kind, _INSTANT_KINDS)))


def write_counters(writer: EventWriter, groups: Groups, counters: list[CounterSeries]) -> None:
    """Write the counters, each on its own track; those of one unit share a scale."""
    for series in counters:
        if not len(series.ts_ns):
            continue
        words = series.name.split()
        is_gpu = len(words) > 2 and words[0].upper() == "GPU" and words[1].isdigit()
        parent = groups.group(f"GPU {words[1]}") if is_gpu else groups.group("counters")

        def describe(descriptor: Any, unit: str = series.unit) -> None:
            counter = descriptor.counter
            if unit in _COUNTER_UNITS:
                counter.unit = getattr(type(counter), _COUNTER_UNITS[unit])
            else:
                counter.unit_name = plain(unit)
                counter.y_axis_share_key = "percent" if unit == "%" else ""

        track = writer.track(" ".join(words[2:]) if is_gpu else series.name, parent=parent, describe=describe)
        writer.counter(track, series.ts_ns, series.value)


def _write_lane(writer: EventWriter, groups: Groups, trace: Trace, flows: Flows, spec: LaneSpec, rows: Ints) -> None:
    if not len(rows):
        return
    events = trace.events.take(rows)
    writer.slices(
        Slices(
            track=_lane_uuids(groups, trace, events, spec),
            start_ns=events.start_ns,
            end_ns=events.end_ns,
            name=event_names(writer, events, trace.strings),
            category=spec.category,
            args=[_arg(writer, trace, events, name) for name in spec.args],
            flow_out=flows.out[rows],
            flow_in=flows.into[rows],
        )
    )


def _lane_uuids(groups: Groups, trace: Trace, events: Events, spec: LaneSpec) -> Ints:
    track = events.track.astype(np.int64)
    if spec.overlaps == "by_flag":
        sub_lane = events.flags.astype(np.int64)
    elif spec.overlaps == "spread":
        sub_lane = spread(track, events.start_ns, events.end_ns)
    else:
        sub_lane = np.zeros(len(track), np.int64)
    key = track << 32 | sub_lane
    distinct, inverse = np.unique(key, return_inverse=True)
    uuids = []
    for value in distinct.tolist():
        row = trace.tracks[value >> 32]
        name = spec.name.format(tid=row.tid, name=plain(row.name) or f"{row.kind.name.lower()} {row.tid}")
        uuids.append(groups.lane(value >> 32, name, spec.description, value & 0xFFFFFFFF))
    return np.array(uuids, np.int64)[inverse]


def _arg(writer: EventWriter, trace: Trace, events: Events, name: str) -> Arg:
    """Return one argument's column. Numbers that say nothing (0; a count of 1; busy all the time) are left out."""
    if name == "stage":
        return Arg(name, stage_texts(writer, events.stage.astype(np.int64)), is_text=True)
    if name in ("request", "file"):
        return Arg(name, texts(writer, getattr(events, name).astype(np.int64), trace.strings), is_text=True)
    if name == "bytes":
        return Arg(name, np.maximum(events.size_bytes, 0))
    if name == "count":
        return Arg(name, unless(np.maximum(events.count, 0).astype(np.int64), events.count == 1))
    if name == "busy_ns":
        is_all = events.work_ns == events.end_ns - events.start_ns
        return Arg(name, unless(np.maximum(events.work_ns, 0), is_all))
    return Arg(name, np.maximum(events.detail, 0))  # "correlation", "sector"


def _write_instants(writer: EventWriter, groups: Groups, trace: Trace, rows: Ints) -> None:
    if not len(rows):
        return
    events = trace.events.take(rows)
    spec = LaneSpec("marks", "moments: ready, request start, first token, notes", "mark", _INSTANT_KINDS, ("request",))
    writer.instants(
        Slices(
            track=_lane_uuids(groups, trace, events, spec),
            start_ns=events.start_ns,
            end_ns=events.end_ns,
            name=event_names(writer, events, trace.strings),
            category=spec.category,
            args=[_arg(writer, trace, events, "request"), Arg("count", events.count.astype(np.int64))],
        )
    )
