"""Decode a Perfetto trace as Perfetto's importer would, and print it as text that can be compared line by line."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from slmtrace.output.perfetto.emit import EVENT_SEQUENCE

_BEGIN, _END, _INSTANT, _COUNTER = 1, 2, 3, 4
_BOOTTIME = 6
_TYPE_NAMES = {_BEGIN: "BEGIN", _END: "END", _INSTANT: "INSTANT", _COUNTER: "COUNTER"}


@dataclass
class Slice:
    """A slice as the importer pairs it up: an END closes what is on top of its track's stack."""

    track: str
    start_ns: int
    end_ns: int
    name: str
    depth: int
    parent: str = ""


@dataclass
class DecodedTrace:
    """The packets, the events with interned texts resolved, and the slices."""

    packets: list[Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    tracks: dict[int, Any] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    n_unmatched: int = 0

    def track_name(self, uuid: int) -> str:
        """Return a track's path from its root."""
        descriptor = self.tracks[uuid]
        name = descriptor.name
        if descriptor.HasField("process"):
            name = f"{descriptor.process.process_name} {descriptor.process.pid}"
        elif descriptor.HasField("thread"):
            name = f"{descriptor.thread.thread_name} {descriptor.thread.tid} {name}"
        return f"{self.track_name(descriptor.parent_uuid)} > {name}" if descriptor.parent_uuid else name


def decode(content: bytes) -> DecodedTrace:
    """Decode a trace; ties of time keep the order of the file, as in the importer."""
    trace = pb.Trace.FromString(content)
    decoded = DecodedTrace(list(trace.packet))
    interned: dict[str, dict[int, str]] = defaultdict(dict)
    now_ns = default_track = 0
    for packet in decoded.packets:
        if packet.HasField("trace_packet_defaults") and packet.trace_packet_defaults.timestamp_clock_id:
            default_track = packet.trace_packet_defaults.track_event_defaults.track_uuid
            clocks = {clock.clock_id: clock.timestamp for clock in packet.clock_snapshot.clocks}
            now_ns = clocks.get(_BOOTTIME, now_ns)
        if packet.HasField("track_descriptor"):
            decoded.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        for entries in ("event_names", "event_categories", "debug_annotation_names"):
            interned[entries].update({entry.iid: entry.name for entry in getattr(packet.interned_data, entries)})
        for entry in packet.interned_data.debug_annotation_string_values:
            interned["texts"][entry.iid] = entry.str.decode()
        if packet.trusted_packet_sequence_id == EVENT_SEQUENCE:
            # An incremental clock: each time counts from the one before, backwards too, modulo 2^64.
            now_ns = (now_ns + packet.timestamp) % (1 << 64)
        if packet.HasField("track_event"):
            decoded.events.append(_event(packet, interned, now_ns, default_track))
    _pair_up(decoded)
    return decoded


def dump(content: bytes) -> str:
    """Return one line a packet, everything resolved."""
    decoded = decode(content)
    events = iter(decoded.events)
    lines = []
    for packet in decoded.packets:
        if packet.HasField("track_event"):
            lines.append(_event_line(decoded, next(events)))
        elif _is_resolved(packet):
            continue
        elif packet.HasField("track_descriptor"):
            descriptor = packet.track_descriptor
            extra = " ordered" if descriptor.child_ordering == pb.TrackDescriptor.EXPLICIT else ""
            extra += " apart" if descriptor.disallow_merging_with_system_tracks else ""
            description = f" ({descriptor.description})" if descriptor.description else ""
            lines.append(f"TRACK {decoded.track_name(descriptor.uuid)}{extra}{description}")
        elif packet.HasField("ftrace_events"):
            lines += _ftrace_lines(packet.ftrace_events)
        else:
            lines.append(" ".join(str(packet).split()))
    return "\n".join(lines) + "\n"


def _is_resolved(packet: Any) -> bool:
    """Return whether a packet only holds strings, the default track of events, or a step back in time."""
    is_step_back = packet.trusted_packet_sequence_id == EVENT_SEQUENCE and packet.HasField("timestamp")
    is_of_strings = packet.HasField("interned_data") and not packet.HasField("trace_packet_defaults")
    return is_step_back or is_of_strings or packet.trace_packet_defaults.HasField("track_event_defaults")


def _event(packet: Any, interned: dict[str, dict[int, str]], ts_ns: int, default_track: int) -> dict[str, Any]:
    event = packet.track_event
    return {
        "ts": ts_ns,
        "type": event.type,
        "track": event.track_uuid or default_track,
        "name": interned["event_names"][event.name_iid] if event.name_iid else "",
        "category": [interned["event_categories"][iid] for iid in event.category_iids],
        "args": {
            interned["debug_annotation_names"][arg.name_iid]: (
                interned["texts"][arg.string_value_iid] if arg.string_value_iid else arg.uint_value
            )
            for arg in event.debug_annotations
        },
        "flow_out": list(event.flow_ids),
        "flow_in": list(event.terminating_flow_ids),
        "correlation": event.correlation_id,
        "value": event.counter_value,
    }


def _pair_up(decoded: DecodedTrace) -> None:
    stacks: dict[int, list[Slice]] = defaultdict(list)
    for event in sorted(decoded.events, key=lambda event: event["ts"]):
        stack = stacks[event["track"]]
        if event["type"] == _BEGIN:
            parent = stack[-1].name if stack else ""
            track = decoded.track_name(event["track"])
            stack.append(Slice(track, event["ts"], -1, event["name"], len(stack), parent))
            decoded.slices.append(stack[-1])
        elif event["type"] == _END:
            if stack:
                stack.pop().end_ns = event["ts"]
            else:
                decoded.n_unmatched += 1
    decoded.n_unmatched += sum(len(stack) for stack in stacks.values())


def _event_line(decoded: DecodedTrace, event: dict[str, Any]) -> str:
    parts = [_TYPE_NAMES[event["type"]], str(event["ts"]), decoded.track_name(event["track"]), "|", event["name"]]
    parts += [f"{name}={value!r}" for name, value in event["args"].items()]
    parts += [f"{key}={event[key]}" for key in ("flow_out", "flow_in", "correlation") if event[key]]
    parts += [str(event["value"])] if event["type"] == _COUNTER else []
    return " ".join(parts)


def _ftrace_lines(bundle: Any) -> list[str]:
    return [f"FTRACE cpu={bundle.cpu} " + " ".join(str(event).split()) for event in bundle.event]
