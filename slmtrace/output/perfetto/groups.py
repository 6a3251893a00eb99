"""The tree of tracks: processes with their threads and lanes, GPUs, block devices, the kernel, counters.

A track is made when its first event is written, so that empty ones never show.
"""

from __future__ import annotations

from typing import Any

from ...model.trace import Trace
from ...model.tracks import NO_TRACK, TrackKind
from ..plain import plain
from .emit import EventWriter

RANGES = "ranges"
SYSTEM = "slmtrace: node"


class Groups:
    """Give out track uuids for the rows of the trace's track table."""

    def __init__(self, writer: EventWriter, trace: Trace) -> None:
        self._writer = writer
        self._tracks = trace.tracks
        self._process_uuid: dict[int, int] = {}
        self._thread_uuid: dict[int, int] = {}
        self._system_uuid = 0
        self._group_uuid: dict[str, int] = {}
        self._lane_uuid: dict[tuple[int, str, int], int] = {}
        # Only names: a command line may hold secrets.
        self._process_name = process_names(trace)
        for pid in self._process_name:
            self._process(pid)

    def lane(self, track: int, name: str, description: str, sub_lane: int = 0) -> int:
        """Return the uuid of a lane of a track. Sub-lanes share one name, and show as one track of several rows."""
        key = (track, name, sub_lane)
        uuid = self._lane_uuid.get(key)
        if uuid is None:
            uuid = self._lane_uuid[key] = self._make_lane(track, name, description)
        return uuid

    def group(self, name: str) -> int:
        """Return the uuid of a group of the node's own tracks."""
        if not self._system_uuid:
            # The UI sorts top-level groups by name: one group for all of these leaves `slmtrace` above it.
            self._system_uuid = self._writer.track(SYSTEM, description="the node: devices, kernel, counters")
        uuid = self._group_uuid.get(name)
        if uuid is None:
            uuid = self._group_uuid[name] = self._writer.track(name, parent=self._system_uuid)
        return uuid

    def _make_lane(self, track: int, name: str, description: str) -> int:
        row = self._tracks[track]
        if row.kind == TrackKind.THREAD:
            thread = self._thread(track)
            return thread if name == RANGES else self._writer.track(name, parent=thread, description=description)
        if row.kind == TrackKind.REQUESTS:
            parent = self._process(row.pid)
        elif row.kind == TrackKind.GPU_STREAM:
            parent = self.group(f"GPU {row.pid}")
        elif row.kind == TrackKind.BLOCK_DEVICE:
            parent = self.group("block devices")
        else:
            parent = self.group("kernel threads")
        return self._writer.track(name, parent=parent, description=description)

    def _process(self, pid: int) -> int:
        def describe(descriptor: Any) -> None:
            descriptor.process.pid = pid
            descriptor.process.process_name = self._process_name.get(pid, f"process {pid}")

        uuid = self._process_uuid.get(pid)
        if uuid is None:
            uuid = self._process_uuid[pid] = self._writer.track(describe=describe)
        return uuid

    def _thread(self, track: int) -> int:
        row = self._tracks[track]
        pid = row.pid or row.tid
        self._process(pid)

        def describe(descriptor: Any) -> None:
            descriptor.thread.pid = pid
            descriptor.thread.tid = row.tid
            descriptor.thread.thread_name = thread_name(row.name, row.tid)
            # Otherwise these slices share one stack with Perfetto's own thread slices, and corrupt one another.
            descriptor.disallow_merging_with_system_tracks = True

        uuid = self._thread_uuid.get(track)
        if uuid is None:
            uuid = self._thread_uuid[track] = self._writer.track(
                RANGES, description="what the program and the engine were doing (hooks, NVTX)", describe=describe
            )
        return uuid


def thread_name(name: str, tid: int) -> str:
    """Return how the timeline calls a thread."""
    return plain(name) or f"thread {tid}"


def process_names(trace: Trace) -> dict[int, str]:
    """Return how the timeline calls each process: its title, else its main thread's name."""
    names: dict[int, str] = {}
    for row in trace.tracks.rows(TrackKind.THREAD):
        track = trace.tracks[row]
        pid = track.pid or track.tid
        main = trace.tracks.find_thread(pid)
        main_name = trace.tracks[main].name if main != NO_TRACK else ""
        names[pid] = names.get(pid) or plain(track.process or main_name)
    return {pid: name or f"process {pid}" for pid, name in sorted(names.items())}


def thread_rows(trace: Trace) -> list[int]:
    """Return the rows of all threads."""
    return trace.tracks.rows(TrackKind.THREAD)
