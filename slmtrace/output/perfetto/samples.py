"""Stack samples as PerfSample packets: sample tracks and flame graphs in the Perfetto UI, v52 and newer."""

from __future__ import annotations

import numpy as np
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from ...model.events import EventKind
from ...model.trace import Trace
from ...model.tracks import TrackKind
from ..plain import plain
from . import wire
from .emit import EventWriter

_SEQUENCE = 3
_SAMPLE_RATE_HZ = 100
_STACKS_PER_PACKET = 1024
# TracePacket and PerfSample
_TIMESTAMP, _SEQUENCE_ID, _SEQUENCE_FLAGS, _PERF_SAMPLE = 8, 10, 13, 66
_CPU, _PID, _TID, _CALLSTACK, _CPU_MODE = 1, 2, 3, 4, 5
_USER_MODE = 2
_MAX_FRAMES = 512


def write_samples(writer: EventWriter, trace: Trace) -> None:
    """Write the stack samples of all threads."""
    is_thread = np.array([trace.tracks[row].kind == TrackKind.THREAD for row in range(len(trace.tracks))], bool)
    rows = trace.events.of_kind(EventKind.SAMPLE)
    rows = rows[is_thread[trace.events.track[rows]]]
    if not len(rows):
        return
    events = trace.events.take(rows[np.argsort(trace.events.start_ns[rows], kind="stable")])
    stacks, stack_of_row = np.unique(events.name, return_inverse=True)
    _write_stacks(writer, [trace.strings[stack] for stack in stacks.tolist()])
    threads = [trace.tracks[row] for row in range(len(trace.tracks))]
    pid = np.array([thread.pid or thread.tid for thread in threads], np.int64)
    tid = np.array([thread.tid for thread in threads], np.int64)
    sample = wire.message(
        _PERF_SAMPLE,
        wire.integer(_CPU, 0),  # where it ran is the scheduler's to say
        wire.integer(_PID, pid[events.track]),
        wire.integer(_TID, tid[events.track]),
        wire.integer(_CALLSTACK, stack_of_row.astype(np.int64) + 1),
        wire.integer(_CPU_MODE, _USER_MODE),
    )
    header = wire.integer(_TIMESTAMP, writer.times(events.start_ns)) + wire.integer(_SEQUENCE_ID, _SEQUENCE)
    writer.packets(header + wire.integer(_SEQUENCE_FLAGS, 2) + sample, len(events))


def _write_stacks(writer: EventWriter, stacks: list[str]) -> None:
    """Intern the stacks' frames and the stacks, root first."""
    packet = pb.TracePacket(trusted_packet_sequence_id=_SEQUENCE, sequence_flags=1 | 2)
    timebase = packet.trace_packet_defaults.perf_sample_defaults.timebase
    timebase.frequency = _SAMPLE_RATE_HZ
    timebase.counter = pb.PerfEvents.SW_CPU_CLOCK
    timebase.name = "Python stacks (py-spy)"
    packet.interned_data.mapping_paths.add(iid=1, str=b"python")
    packet.interned_data.mappings.add(iid=1, path_string_ids=[1], start=0, end=1 << 40)
    frame_ids: dict[str, int] = {}
    for number, stack in enumerate(stacks, start=1):
        frames = [plain(frame) or "?" for frame in stack.split(";")[:_MAX_FRAMES]]
        for frame in frames:
            if frame not in frame_ids:
                iid = frame_ids[frame] = len(frame_ids) + 1
                packet.interned_data.function_names.add(iid=iid, str=frame.encode())
                packet.interned_data.frames.add(iid=iid, function_name_id=iid, mapping_id=1, rel_pc=iid)
        packet.interned_data.callstacks.add(iid=number, frame_ids=[frame_ids[frame] for frame in frames])
        if number % _STACKS_PER_PACKET == 0:
            writer.packet(packet)
            packet = pb.TracePacket(trusted_packet_sequence_id=_SEQUENCE, sequence_flags=2)
    writer.packet(packet)
