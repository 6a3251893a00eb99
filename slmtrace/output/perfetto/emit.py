"""Write track descriptors and track events, table by table, on one packet sequence that interns every string.

The order in the file matters: Perfetto breaks ties of time by it. So of each table all ENDs come first, then the BEGINs
level by level: a slice never starts before the last one's end, nor a child before its parent. Within these, events are
in order of time, for each tells the time since the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from ...model.events import Ints
from ..plain import plain
from . import wire
from .nesting import nest

_PACKET = 1  # Trace.packet
# TracePacket
_TIMESTAMP, _SEQUENCE_ID, _TRACK_EVENT = 8, 10, 11
# TrackEvent
_CATEGORY, _ANNOTATION, _TYPE, _NAME, _TRACK, _COUNTER_VALUE = 3, 4, 9, 10, 11, 30
_FLOW_OUT, _FLOW_IN, _CORRELATION = 47, 48, 52
# DebugAnnotation
_ARG_NAME, _ARG_UINT, _ARG_TEXT = 1, 3, 17
_BEGIN, _END, _INSTANT, _COUNTER = 1, 2, 3, 4
_INCREMENTAL_STATE_CLEARED, _NEEDS_INCREMENTAL_STATE = 1, 2

EVENT_SEQUENCE = 2
_BOOTTIME, _EVENT_CLOCK = 6, 64  # ClockSnapshot.Clock: a builtin one, and the first of those that a sequence may define
_INTERNED_PER_PACKET = 4096


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument of many slices: a number or an interned text a row; 0 leaves it out."""

    name: str
    values: Ints
    is_text: bool = False


def unless(values: Ints, says_nothing: NDArray[np.bool_]) -> Ints:
    """Return an argument's values without those that say nothing."""
    return np.where(says_nothing, 0, values)


@dataclass(frozen=True, slots=True)
class Slices:
    """A table of slices or instants. It must hold all of a track's slices: ties between tables would misplace them."""

    track: Ints  # uuids
    start_ns: Ints
    end_ns: Ints
    name: Ints  # interned names
    category: str
    args: Sequence[Arg] = ()
    flow_out: Ints | None = None  # 0: none
    flow_in: Ints | None = None
    correlation: Ints | None = None  # slices of one correlation share one colour

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Slices:
        """Return the table of these rows."""

        def pick(column: Ints | None) -> Ints | None:
            return None if column is None else column[rows]

        return replace(
            self,
            track=self.track[rows],
            start_ns=self.start_ns[rows],
            end_ns=self.end_ns[rows],
            name=self.name[rows],
            args=[replace(arg, values=arg.values[rows]) for arg in self.args],
            flow_out=pick(self.flow_out),
            flow_in=pick(self.flow_in),
            correlation=pick(self.correlation),
        )


@dataclass(slots=True)
class _Interned:
    """One table of interned strings: ids start at 1, and those above `n_written` are not in the file yet."""

    show: Callable[[str], str] = plain
    ids: dict[str, int] = field(default_factory=dict)  # by text as given, and as shown
    texts: list[str] = field(default_factory=list)
    n_written: int = 0

    def intern(self, text: str) -> int:
        found = self.ids.get(text)
        if found is None:
            shown = self.show(text)
            found = self.ids[text] = self.ids.setdefault(shown, len(self.texts) + 1)
            if found > len(self.texts):
                self.texts.append(shown)
        return found


class EventWriter:
    """Append packets to a file. Times go in as CLOCK_MONOTONIC, and out as CLOCK_BOOTTIME, Perfetto's default clock."""

    def __init__(self, file: BinaryIO, boottime_offset_ns: int = 0) -> None:
        self._file = file
        self._offset_ns = boottime_offset_ns
        self._last_ns = 0  # the time of the last track event
        self._tables = {
            "event_names": _Interned(lambda text: plain(text) or "(no name)"),
            "event_categories": _Interned(),
            "debug_annotation_names": _Interned(),
            "debug_annotation_string_values": _Interned(lambda text: plain(text, 4096)),
        }
        self._last_uuid = self._default_track = 0
        self.n_slices = 0
        self.n_cut = 0

    def time(self, ts_ns: int) -> int:
        """Return a time on the trace's clock."""
        return ts_ns + self._offset_ns

    def times(self, ts_ns: Ints) -> Ints:
        """Return times on the trace's clock."""
        return ts_ns + self._offset_ns

    def packet(self, packet: Any) -> None:
        """Append one packet."""
        self._file.write(wire.blob(_PACKET, packet.SerializeToString(deterministic=True)))

    def packets(self, parts: wire.Parts, n_packets: int) -> None:
        """Append a table of packets."""
        for chunk in wire.encode(wire.message(_PACKET, parts), n_packets):
            self._file.write(chunk)

    def raw_packet(self, content: bytes) -> None:
        """Append one packet that is already encoded."""
        self._file.write(wire.blob(_PACKET, content))

    def begin_events(self, start_ns: int) -> None:
        """Begin the track events. The time of each counts from the one before, which takes fewest bytes."""
        self._last_ns = max(start_ns, -self._offset_ns)
        packet = self._defaults()
        packet.sequence_flags = _INCREMENTAL_STATE_CLEARED
        packet.clock_snapshot.clocks.add(clock_id=_EVENT_CLOCK, timestamp=0, is_incremental=True)
        packet.clock_snapshot.clocks.add(clock_id=_BOOTTIME, timestamp=self.time(self._last_ns))
        self.packet(packet)

    def track(
        self,
        name: str = "",
        *,
        parent: int = 0,
        description: str = "",
        rank: int | None = None,
        is_ordered: bool = False,
        describe: Callable[[Any], None] | None = None,
    ) -> int:
        """Append a track's descriptor and return its uuid. `is_ordered` makes its children keep their ranks."""
        self._last_uuid += 1
        packet = pb.TracePacket(trusted_packet_sequence_id=EVENT_SEQUENCE)
        descriptor = packet.track_descriptor
        descriptor.uuid = self._last_uuid
        if name:
            descriptor.name = plain(name)
        if parent:
            descriptor.parent_uuid = parent
        if description:
            descriptor.description = description
        if rank is not None:
            descriptor.sibling_order_rank = rank
        if is_ordered:
            descriptor.child_ordering = pb.TrackDescriptor.EXPLICIT
        if describe is not None:
            describe(descriptor)
        self.packet(packet)
        return self._last_uuid

    def name(self, text: str) -> int:
        """Intern the name of a slice."""
        return self._tables["event_names"].intern(text)

    def name_text(self, iid: int) -> str:
        """Return the text of an interned name."""
        return self._tables["event_names"].texts[iid - 1]

    def text(self, text: str) -> int:
        """Intern the text of an argument."""
        return self._tables["debug_annotation_string_values"].intern(text)

    def slices(self, slices: Slices) -> None:
        """Append slices, nested: one that crosses its parent's end is cut there, and counted."""
        if not len(slices.track):
            return
        ends, depth, n_cut = nest(slices.track, slices.start_ns, slices.end_ns)
        self.n_slices += len(ends)
        self.n_cut += n_cut
        order = np.argsort(ends, kind="stable")
        end_event = [wire.integer(_TYPE, _END), self._track_field(slices.track[order])]
        self.packets(self._packet_parts(ends[order], end_event), len(ends))
        self._rows(slices, _BEGIN, depth)

    def instants(self, instants: Slices) -> None:
        """Append instants; their ends do not matter."""
        if len(instants.track):
            self._rows(instants, _INSTANT, np.zeros(len(instants.track), np.int64))

    def counter(self, track: int, ts_ns: Ints, values: Ints) -> None:
        """Append the values of one counter track."""
        event = [
            wire.integer(_TYPE, _COUNTER),
            self._track_field(np.array([track])),
            wire.integer(_COUNTER_VALUE, values),
        ]
        self.packets(self._packet_parts(ts_ns, event), len(ts_ns))

    def _rows(self, slices: Slices, event_type: int, level: Ints) -> None:
        """Append one packet a row, level by level; rows of one shape (the same optional fields) go together."""
        optional = [arg.values for arg in slices.args]
        optional += [column for column in (slices.flow_out, slices.flow_in) if column is not None]
        shape = level << len(optional)
        for bit, column in enumerate(optional):
            shape = shape | (column != 0).astype(np.int64) << bit
        names = [self._tables["debug_annotation_names"].intern(arg.name) for arg in slices.args]
        category = self._tables["event_categories"].intern(slices.category)
        self._flush_interned()
        order = np.argsort(slices.start_ns, kind="stable")
        for value in np.unique(shape).tolist():
            rows = slices.take(order[shape[order] == value])
            event = [self._track_field(rows.track), *_event_fields(rows, event_type, category, names)]
            self.packets(self._packet_parts(rows.start_ns, event), len(rows.track))

    def _packet_parts(self, ts_ns: Ints, event: list[wire.Parts]) -> wire.Parts:
        # No SEQ_NEEDS_INCREMENTAL_STATE: Perfetto presumes it of track events, and the file has all of its packets.
        self._go_back_to(int(ts_ns[0]))
        since_last_ns = np.diff(ts_ns, prepend=self._last_ns)
        self._last_ns = int(ts_ns[-1])
        parts = wire.integer(_TIMESTAMP, since_last_ns) + wire.integer(_SEQUENCE_ID, EVENT_SEQUENCE)
        return parts + wire.message(_TRACK_EVENT, *event)

    def _go_back_to(self, ts_ns: int) -> None:
        """Go back to where a table starts. As a packet of its own, the negative step makes no column ten bytes wide."""
        if ts_ns < self._last_ns:
            step_ns = (ts_ns - self._last_ns) % (1 << 64)
            self.packet(pb.TracePacket(timestamp=step_ns, trusted_packet_sequence_id=EVENT_SEQUENCE))
            self._last_ns = ts_ns

    def _track_field(self, track: Ints) -> wire.Parts:
        """Describe the tracks of a table of events; if it is one, it becomes the default of what follows."""
        uuid = int(track[0])
        if (track != uuid).any():
            return wire.integer(_TRACK, track)
        if uuid != self._default_track:
            self._default_track = uuid
            self.packet(self._defaults())
        return []

    def _defaults(self) -> Any:
        packet = pb.TracePacket(trusted_packet_sequence_id=EVENT_SEQUENCE)
        packet.trace_packet_defaults.timestamp_clock_id = _EVENT_CLOCK
        if self._default_track:
            packet.trace_packet_defaults.track_event_defaults.track_uuid = self._default_track
        return packet

    def _flush_interned(self) -> None:
        """Write the strings that the next packets refer to."""
        for table_name, table in self._tables.items():
            for low in range(table.n_written, len(table.texts), _INTERNED_PER_PACKET):
                packet = pb.TracePacket(trusted_packet_sequence_id=EVENT_SEQUENCE)
                packet.sequence_flags = _NEEDS_INCREMENTAL_STATE
                entries = getattr(packet.interned_data, table_name)
                for iid, text in enumerate(table.texts[low : low + _INTERNED_PER_PACKET], start=low + 1):
                    if table_name == "debug_annotation_string_values":
                        entries.add(iid=iid, str=text.encode())
                    else:
                        entries.add(iid=iid, name=text)
                self.packet(packet)
            table.n_written = len(table.texts)


def _event_fields(rows: Slices, event_type: int, category: int, arg_names: list[int]) -> list[wire.Parts]:
    """Describe the TrackEvent of rows that all have the same shape."""
    event = [
        wire.integer(_TYPE, event_type),
        wire.integer(_NAME, rows.name),
        wire.integer(_CATEGORY, category),
    ]
    if rows.correlation is not None:
        event.append(wire.integer(_CORRELATION, rows.correlation))
    for number, column in ((_FLOW_OUT, rows.flow_out), (_FLOW_IN, rows.flow_in)):
        if column is not None and column[0]:
            event.append(wire.fixed64(number, column))
    for arg, name in zip(rows.args, arg_names, strict=True):
        if arg.values[0]:
            field_number = _ARG_TEXT if arg.is_text else _ARG_UINT
            event.append(
                wire.message(_ANNOTATION, wire.integer(_ARG_NAME, name), wire.integer(field_number, arg.values))
            )
    return event
