"""The front of a trace: its identity, the node, the clocks, the breakdown, the processes and threads."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from ...model.report import Report
from ...model.trace import Trace
from ...model.tracks import TrackKind
from ..json_ import to_breakdown
from ..plain import plain
from .emit import EventWriter
from .groups import thread_name, thread_rows
from .runs import all_segments

BREAKDOWN_KEY = "slmtrace.breakdown"
BUSIEST_KEY = "slmtrace.busiest_threads"
_SEQUENCE = 1
_REALTIME, _MONOTONIC, _BOOTTIME = 1, 3, 6  # ClockSnapshot.Clock.BuiltinClocks
# Any release since 4.14 makes Perfetto read the scheduler's states as this writer encodes them.
_DEFAULT_RELEASE = "4.14.0"
_MAX_BUSIEST = 4
_CAPTURE_KEYS = ("id", "created", "engine", "engine_version", "model", "tier", "status")


def boottime_offset_ns(report: Report) -> int:
    """Return CLOCK_BOOTTIME - CLOCK_MONOTONIC by the report's first clock snapshot; 0 without one."""
    for snapshot in _snapshots(report):
        if "boottime_ns" in snapshot and "monotonic_ns" in snapshot:
            return int(snapshot["boottime_ns"]) - int(snapshot["monotonic_ns"])
    return 0


def write_header(writer: EventWriter, trace: Trace, report: Report) -> None:
    """Write all that comes before the first event."""
    breakdown = json.dumps(to_breakdown(report), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    writer.packet(_identity(report, breakdown))
    writer.packet(_system(report))
    writer.packet(_metadata(trace, report, breakdown))
    for snapshot in _snapshots(report):
        writer.packet(_clocks(snapshot))
    tree = _threads(trace)
    starts = [int(part.min()) for part in (trace.events.start_ns, trace.sched.run_start_ns) if len(part)]
    if starts:
        tree.timestamp = max(0, writer.time(min(starts)))
    writer.packet(tree)


def write_footer(writer: EventWriter, facts: dict[str, int]) -> None:
    """Write what is known only at the end: how many slices there are, and how many had to be cut."""
    packet = pb.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
    for name, value in facts.items():
        packet.chrome_events.metadata.add(name=f"slmtrace.{name}", int_value=value)
    writer.packet(packet)


def _identity(report: Report, breakdown: str) -> Any:
    """Identify the trace by its content: the UI caches by this id, so another analysis must have another."""
    digest = hashlib.sha256(f"{report.capture.get('id', '')}\n{breakdown}".encode()).digest()
    packet = pb.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
    packet.trace_uuid.msb = int.from_bytes(digest[:8], "big", signed=True)
    packet.trace_uuid.lsb = int.from_bytes(digest[8:16], "big", signed=True)
    return packet


def _system(report: Report) -> Any:
    host = report.capture.get("host")
    host = host if isinstance(host, dict) else {}
    packet = pb.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
    packet.system_info.utsname.sysname = "Linux"
    packet.system_info.utsname.release = plain(host.get("kernel") or _DEFAULT_RELEASE)
    packet.system_info.tracing_service_version = "slmtrace"
    if isinstance(host.get("cpus"), int):
        packet.system_info.num_cpus = host["cpus"]
    return packet


def _metadata(trace: Trace, report: Report, breakdown: str) -> Any:
    packet = pb.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
    packet.chrome_events.metadata.add(name=BREAKDOWN_KEY, string_value=breakdown)
    for key in _CAPTURE_KEYS:
        if report.capture.get(key):
            packet.chrome_events.metadata.add(name=f"slmtrace.{key}", string_value=plain(report.capture[key]))
    packet.chrome_events.metadata.add(name=BUSIEST_KEY, string_value=_busiest_threads(trace, report))
    return packet


def _busiest_threads(trace: Trace, report: Report) -> str:
    """Return 'pid/tid' of the threads that the critical path spends most time on, for a viewer to open."""
    segments, _ = all_segments(report)
    on_track = segments.track >= 0
    spent_ns = np.zeros(len(trace.tracks), np.int64)
    np.add.at(spent_ns, segments.track[on_track], segments.dur_ns[on_track])
    busiest = [row for row in np.argsort(-spent_ns, kind="stable").tolist() if spent_ns[row] > 0]
    threads = [trace.tracks[row] for row in busiest if trace.tracks[row].kind == TrackKind.THREAD]
    return " ".join(f"{one.pid or one.tid}/{one.tid}" for one in threads[:_MAX_BUSIEST])


def _clocks(snapshot: dict[str, Any]) -> Any:
    packet = pb.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
    clocks = (("boottime_ns", _BOOTTIME), ("monotonic_ns", _MONOTONIC), ("realtime_ns", _REALTIME))
    for key, clock_id in clocks:
        if key in snapshot:
            packet.clock_snapshot.clocks.add(clock_id=clock_id, timestamp=int(snapshot[key]))
    packet.clock_snapshot.primary_trace_clock = _BOOTTIME
    return packet


def _threads(trace: Trace) -> Any:
    """Name the threads; the processes have tracks, whose names Perfetto does not cut at the first space."""
    packet = pb.TracePacket(trusted_packet_sequence_id=_SEQUENCE)
    for row in thread_rows(trace):
        track = trace.tracks[row]
        packet.process_tree.threads.add(
            tid=track.tid, tgid=track.pid or track.tid, name=thread_name(track.name, track.tid)
        )
    return packet


def _snapshots(report: Report) -> list[dict[str, Any]]:
    """Return the clock snapshots that have a boot time: {"boottime_ns", "monotonic_ns", "realtime_ns"}."""
    found = report.clock.get("snapshots", [])
    return [one for one in found if "boottime_ns" in one and min(one.values()) >= 0]
