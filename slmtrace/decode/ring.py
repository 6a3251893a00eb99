"""RING records: split by type into plain columns, with their threads and files resolved. Hostile input is counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ..capture.directory import RawLog
from ..capture.layout import (
    NAME_AT_ENROLL,
    NAME_OF_OUTSIDER,
    RING,
    SWITCH_NEXT_IN_TREE,
    SWITCH_PREV_IN_TREE,
    TEXT_BYTES,
    RingType,
)
from ..model.events import Ints, SmallInts, distinct_rows
from ..model.quality import Issue, Quality
from ..model.tracks import NO_TRACK, TrackKind, Tracks
from .base import LATEST_NS, Context, Records, clean_text, join_texts, pick, read_blocks

Words = NDArray[np.uint64]

_LARGEST_TID = 1 << 22  # PID_MAX_LIMIT in include/linux/threads.h
_IS_KNOWN = np.zeros(1 << 16, np.bool_)
_IS_KNOWN[[int(kind) for kind in RingType]] = True
_PAYLOAD_BYTES = RING.record_bytes() - 8
_COMM_BYTES = 16
_LOW = np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)


@dataclass(frozen=True, slots=True)
class Rows:
    """The records of one type as contiguous columns."""

    ts_ns: Ints
    tid: Ints
    cpu: SmallInts
    a: Words
    b: Words
    c: Words
    d: Words

    def __len__(self) -> int:
        return len(self.ts_ns)

    def where(self, chosen: NDArray[np.bool_] | Ints) -> Rows:
        """Return the chosen rows; chosen by their numbers, in that order."""
        if chosen.dtype == np.bool_:
            if chosen.all():
                return self
            # Seven columns by numbers take a fraction of the time that they take by booleans.
            chosen = np.flatnonzero(chosen)
        return Rows(*(getattr(self, column.name).take(chosen) for column in fields(Rows)))


@dataclass(frozen=True, slots=True)
class Ring:
    """A RING log taken apart."""

    rows: dict[RingType, Rows]
    texts: dict[int, str]
    n_records: int  # all that were written

    def of_type(self, kind: RingType) -> Rows:
        """Return the records of one type."""
        return self.rows[kind]


def low_half(words: Words) -> Ints:
    """Return the low 32 bits of packed words."""
    halves: Ints = (words & _LOW).astype(np.int64)
    return halves


def high_half(words: Words) -> Ints:
    """Return the high 32 bits of packed words."""
    halves: Ints = (words >> _HIGH).astype(np.int64)
    return halves


def signed(words: Words) -> Ints:
    """Return words as the signed numbers that they are."""
    return words.astype(np.int64)


def read_ring(log: RawLog, context: Context) -> Ring:
    """Read a RING log; records that no collector writes are left out and counted."""
    parts: dict[RingType, list[Rows]] = {kind: [_columns(np.empty(0, RING.numpy_fields()))] for kind in RingType}
    texts, n_records = [np.empty(0, RING.numpy_fields())], 0
    for records in read_blocks(log, RING, context.quality):
        types, is_sound = np.ascontiguousarray(records["type"]), _is_sound(records, context.quality)
        for kind in np.flatnonzero(np.bincount(types[is_sound])).tolist():
            parts[RingType(kind)].append(_columns(pick(records, is_sound & (types == kind))))
        texts.append(pick(records, is_sound & (types == RingType.TEXT)))
        n_records += len(records)
    return Ring({kind: _join(parts.pop(kind)) for kind in RingType}, _read_texts(np.concatenate(texts)), n_records)


def _is_sound(records: Records, quality: Quality) -> NDArray[np.bool_]:
    """Say which records are what a collector writes, and count the others."""
    is_whole = (np.ascontiguousarray(records["header"]) & _LOW) == _PAYLOAD_BYTES
    types, ts_ns = np.ascontiguousarray(records["type"]), np.ascontiguousarray(records["ts_ns"])
    is_known = _IS_KNOWN[types]
    is_timely = (types == RingType.TEXT) | ((ts_ns > 0) & (ts_ns < LATEST_NS))
    is_sane = is_whole & (records["tid"] <= _LARGEST_TID)
    quality.note(Issue.DAMAGED_RECORD, int((~is_sane).sum()))
    quality.note(Issue.UNKNOWN_KIND, int((is_sane & ~is_known).sum()))
    quality.note(Issue.IMPLAUSIBLE_TIME, int((is_sane & is_known & ~is_timely).sum()))
    is_sound: NDArray[np.bool_] = is_sane & is_known & is_timely
    return is_sound


def _join(parts: list[Rows]) -> Rows:
    return Rows(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Rows)))


def _columns(records: Records) -> Rows:
    return Rows(
        records["ts_ns"].astype(np.int64),
        records["tid"].astype(np.int64),
        records["cpu"].astype(np.int32),
        *(np.ascontiguousarray(records[name]) for name in ("a", "b", "c", "d")),
    )


def _read_texts(records: Records) -> dict[int, str]:
    """Put the paths together: their 40 bytes stand in ts and a to d."""
    chunks = np.empty((len(records), TEXT_BYTES), np.uint8)
    for index, name in enumerate(("ts_ns", "a", "b", "c", "d")):
        chunks[:, 8 * index : 8 * index + 8] = np.ascontiguousarray(records[name])[:, None].view(np.uint8)
    return join_texts(records["tid"], records["cpu"], chunks)


class Threads:
    """The threads of the traced tree: their tracks, processes and names."""

    def __init__(self, ring: Ring, tracks: Tracks) -> None:
        tids, pids = _members(ring)
        self._tids, rows = distinct_rows(tids)
        first = np.full(len(self._tids), len(tids))
        np.minimum.at(first, rows, np.arange(len(tids)))
        pid_of = pids[first].tolist()
        self._rows = np.array(
            [tracks.thread(tid, pid) for tid, pid in zip(self._tids.tolist(), pid_of, strict=True)], np.int32
        )
        names = dict(_names(ring))
        for tid, pid, row in zip(self._tids.tolist(), pid_of, self._rows.tolist(), strict=True):
            tracks.update(row, name=names.get(tid, ""), process=names.get(pid, ""))
        self._outsiders = {tid: name for tid, name in names.items() if tracks.find_thread(tid) == NO_TRACK}
        self._tracks = tracks

    def tracks_of(self, tids: Ints) -> SmallInts:
        """Return the tracks of threads, NO_TRACK for those outside the tree."""
        if not len(self._tids):
            return np.full(len(tids), NO_TRACK, np.int32)
        at = np.minimum(np.searchsorted(self._tids, tids), len(self._tids) - 1)
        found: SmallInts = np.where(self._tids[at] == tids, self._rows[at], np.int32(NO_TRACK)).astype(np.int32)
        return found

    def pids_of(self, tids: Ints) -> Ints:
        """Return the processes of threads, 0 where nothing says."""
        rows = self.tracks_of(tids)
        distinct, inverse = np.unique(rows, return_inverse=True)
        pids = [self._tracks[row].pid if row != NO_TRACK else 0 for row in distinct.tolist()]
        return np.array(pids, np.int64)[inverse] if pids else np.empty(0, np.int64)

    def tracks_of_anybody(self, tids: Ints) -> SmallInts:
        """Return the tracks of threads, giving those outside the tree a track of their own."""
        found = self.tracks_of(tids)
        for tid in np.unique(tids[found == NO_TRACK]).tolist():
            name = self._outsiders.get(tid, "") or f"thread {tid}"
            found[tids == tid] = self._tracks.other(TrackKind.SYSTEM, 0, tid, name)
        return found


def _members(ring: Ring) -> tuple[Ints, Ints]:
    """Return the tids of the tree and, beside each, its pid, 0 where a record does not say; the knowing ones first."""
    fork, switch, waking = (ring.of_type(kind) for kind in (RingType.FORK, RingType.SWITCH, RingType.WAKING))
    name = ring.of_type(RingType.NAME)
    name = name.where(name.b != NAME_OF_OUTSIDER)
    prev = switch.where((switch.d & np.uint64(SWITCH_PREV_IN_TREE)) != 0)
    following = switch.where((switch.d & np.uint64(SWITCH_NEXT_IN_TREE)) != 0)
    pairs = [
        (low_half(fork.a), low_half(fork.b)),
        (fork.tid, low_half(fork.c)),
        (name.tid, low_half(name.a)),
        (prev.tid, low_half(prev.c)),
        (low_half(following.a), high_half(following.c)),
        (low_half(waking.a), low_half(waking.c)),
    ]
    for kind in (RingType.EXEC, RingType.EXIT):
        rows = ring.of_type(kind)
        pairs.append((rows.tid, low_half(rows.a)))
    http = ring.of_type(RingType.HTTP)
    pairs.append((http.tid, low_half(http.c)))
    for kind in (RingType.FAULT, RingType.SYSCALL, RingType.FOLD, RingType.MALLOC, RingType.SPIN, RingType.UPROBE):
        tids = distinct_rows(ring.of_type(kind).tid)[0]
        pairs.append((tids, np.zeros(len(tids), np.int64)))
    tids, pids = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    is_real = (tids > 0) & (tids <= _LARGEST_TID) & (pids <= _LARGEST_TID)
    return tids[is_real], pids[is_real]


def _names(ring: Ring) -> Iterator[tuple[int, str]]:
    """Yield the names of threads, the latest last: at enrolment they may still carry their launcher's."""
    name = ring.of_type(RingType.NAME)
    is_early = name.b == NAME_AT_ENROLL
    for rows in (name.where(is_early), name.where(~is_early), ring.of_type(RingType.EXIT)):
        words = np.stack([rows.c, rows.d], axis=1).view(np.uint8).reshape(len(rows), _COMM_BYTES)
        for tid, comm in zip(rows.tid.tolist(), words, strict=True):
            yield tid, clean_text(comm.tobytes().split(b"\0")[0])


class Files:
    """Paths by device and inode."""

    def __init__(self, ring: Ring, context: Context) -> None:
        self._strings = context.strings
        self._paths: dict[tuple[int, int], str] = {}
        rows = ring.of_type(RingType.FILE)
        for text, inode, device in zip(rows.tid.tolist(), rows.a.tolist(), rows.b.tolist(), strict=True):
            path = ring.texts.get(text)
            context.quality.note(Issue.MISSING_STRING, path is None)
            if path is not None:
                self._paths[device, inode] = path

    def intern(self, devices: Ints, inodes: Words) -> SmallInts:
        """Return string ids of paths; a file without a known path is named by its numbers, inode 0 is none."""
        ids = np.zeros(len(inodes), np.int32)
        named = np.flatnonzero(inodes)
        numbers, of_inode = np.unique(inodes[named], return_inverse=True)
        # One number a row: np.unique(axis=0) compares whole rows, ten times slower.
        keys, rows = np.unique(of_inode.astype(np.int64) << 32 | devices[named], return_inverse=True)
        known = [self._string_id(key & 0xFFFFFFFF, int(numbers[key >> 32])) for key in keys.tolist()]
        ids[named] = np.array(known, np.int32)[rows]
        return ids

    def _string_id(self, device: int, inode: int) -> int:
        path = self._paths.get((device, inode))
        return self._strings.intern(path or f"inode {inode} on device {device >> 20}:{device & 0xFFFFF}")
