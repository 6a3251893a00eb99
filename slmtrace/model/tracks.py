"""Tracks: what events happen on. Threads, requests, GPU streams, block devices, the system."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

NO_TRACK = -1
# What Perfetto has room for; the kernel hands out far less (PID_MAX_LIMIT in include/linux/threads.h).
_LARGEST_ID = (1 << 31) - 1
# Streams of two processes may have the same number on one device.
GPU_PROCESS_SHIFT = 32


class TrackKind(enum.IntEnum):
    """What a track is. `pid` and `tid` mean host ids for threads, else what the kind says."""

    THREAD = 1
    REQUESTS = 2  # the async stretches of one process; pid
    GPU_STREAM = 3  # pid: device, tid: stream | process << GPU_PROCESS_SHIFT
    BLOCK_DEVICE = 4  # tid: kernel device number
    SYSTEM = 5  # a kernel thread or activity outside the traced tree; tid


@dataclass(frozen=True, slots=True)
class Track:
    """One track. `in_tree` says that the thread belongs to the traced process tree."""

    kind: TrackKind
    pid: int
    tid: int
    name: str = ""
    process: str = ""
    in_tree: bool = False


class Tracks:
    """Give each track a row; a thread is one track however many sources speak of it."""

    def __init__(self) -> None:
        self._rows: list[Track] = []
        self._row_by_key: dict[tuple[TrackKind, int, int], int] = {}

    def thread(self, tid: int, pid: int = 0) -> int:
        """Return the row of a thread of the traced tree; host thread ids are unique, so the pid only completes it.

        What can be no id is taken for 0, the thread that nobody knows.
        """
        tid, pid = (number if 0 <= number <= _LARGEST_ID else 0 for number in (tid, pid))
        return self._find(TrackKind.THREAD, pid, tid, key=(TrackKind.THREAD, 0, tid), in_tree=True)

    def other(self, kind: TrackKind, pid: int, tid: int, name: str = "") -> int:
        """Return the row of a track that is not a thread of the tree."""
        return self._find(kind, pid, tid, key=(kind, pid, tid), name=name)

    def find_thread(self, tid: int) -> int:
        """Return the row of a known thread, or NO_TRACK."""
        return self._row_by_key.get((TrackKind.THREAD, 0, tid), NO_TRACK)

    def update(self, row: int, *, name: str = "", process: str = "", pid: int = 0) -> None:
        """Complete what is known of a track; what is empty or 0 is left as it was."""
        track = self._rows[row]
        self._rows[row] = replace(
            track, name=name or track.name, process=process or track.process, pid=pid or track.pid
        )

    def _find(
        self,
        kind: TrackKind,
        pid: int,
        tid: int,
        key: tuple[TrackKind, int, int],
        name: str = "",
        in_tree: bool = False,
    ) -> int:
        row = self._row_by_key.get(key)
        if row is None:
            row = self._row_by_key[key] = len(self._rows)
            self._rows.append(Track(kind, pid, tid, name=name, in_tree=in_tree))
        elif pid and not self._rows[row].pid:
            self._rows[row] = replace(self._rows[row], pid=pid)
        return row

    def __getitem__(self, row: int) -> Track:
        return self._rows[row]

    def __len__(self) -> int:
        return len(self._rows)

    def pids(self) -> NDArray[np.int64]:
        """Return the process of each row."""
        return np.array([track.pid for track in self._rows], np.int64)

    def rows(self, kind: TrackKind) -> list[int]:
        """Return the rows of one kind."""
        return [row for row, track in enumerate(self._rows) if track.kind == kind]
