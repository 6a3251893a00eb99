"""Ranges, imports and marks that the instrument recorded in one process."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..capture.directory import RawLog
from ..capture.layout import SlotKind
from ..model.events import NO_STAGE, EventKind, Events, concatenate_events, make_events
from ..model.quality import Issue
from ..model.taxonomy import STAGE_BY_LABEL, Stage
from ..model.trace import Loss
from ..model.tracks import TrackKind
from .base import Context, Fragment, Records, pick, pid_of
from .slots import Slots, intern_column, read_slots

_KINDS = (
    SlotKind.RANGE,
    SlotKind.BEGIN,
    SlotKind.MARK,
    SlotKind.ASYNC,
    SlotKind.IMPORT,
    SlotKind.DLOPEN,
    SlotKind.GENERATOR,
    SlotKind.NOTE,
    SlotKind.RUSAGE,
)
_PROCESS_TITLE = "process_title"


def decode(log: RawLog, context: Context) -> Fragment:
    """Turn one process's log into events.

    A range that was begun and never ended lasts until the last thing that its process wrote. What a range with
    accounting used is in its `detail`, `count` and `flags`, as model/events.py says.
    """
    slots = read_slots(log, context)
    plausible = _plausible(slots.records, context)
    process = _Process(log, Slots(plausible, slots.texts, slots.n_records), context)
    events = concatenate_events(
        [
            process.ranges(),
            process.unfinished(),
            process.generators(),
            process.asyncs(),
            process.imports(),
            process.dlopens(),
            process.marks(),
            process.notes(),
        ]
    )
    process.name_threads()
    lost = int(log.header.get("lost", 0))
    losses = [Loss(process.last_ns, log.source, "log_full", lost)] if lost else []
    return Fragment(log.source, events, decoded=slots.n_records, losses=losses)


def _plausible(records: Records, context: Context) -> Records:
    """Leave out records of unknown kind, and give negative ranges no length."""
    is_known = np.isin(records["kind"], _KINDS)
    context.quality.note(Issue.UNKNOWN_KIND, int((~is_known).sum()))
    kept = pick(records, is_known)
    is_negative = (kept["end_ns"] < kept["start_ns"]) & (kept["kind"] != SlotKind.BEGIN)
    context.quality.note(Issue.NEGATIVE_DURATION, int(is_negative.sum()))
    kept["end_ns"][is_negative] = kept["start_ns"][is_negative]
    return kept


class _Process:
    """The log of one process, and the tables that its events are told in."""

    def __init__(self, log: RawLog, slots: Slots, context: Context) -> None:
        self.slots = slots
        self.context = context
        self.pid = pid_of(log)
        self.title = str(log.header.get("program", ""))[:200]
        records = slots.records
        self.last_ns = int(max(records["start_ns"].max(), records["end_ns"].max())) if len(records) else 0
        self._stage_and_label_by_id: dict[int, tuple[int, int]] = {}

    def ranges(self) -> Events:
        """Return the calls, each with what it used where that was recorded."""
        calls = self.slots.of_kind(SlotKind.RANGE)
        usage = self.slots.of_kind(SlotKind.RUSAGE)
        cpu_ns = np.zeros(len(calls), np.int64)
        minor, major = np.ones(len(calls), np.int64), np.zeros(len(calls), np.int64)
        of_call, of_usage = _matches(_keys(calls, "end_ns"), _keys(usage, "end_ns"))
        # The readings bracket the call, so the on-CPU time may exceed it by their own cost.
        dur_ns = (calls["end_ns"] - calls["start_ns"]).astype(np.int64)
        cpu_ns[of_call] = np.clip(usage["a"][of_usage], 1, np.maximum(dur_ns[of_call], 1))
        faults = usage["b"][of_usage].astype(np.uint64)
        minor[of_call] = np.minimum(faults & np.uint64(0xFFFFFFFF), np.iinfo(np.int32).max)
        major[of_call] = np.minimum(faults >> np.uint64(32), np.iinfo(np.uint16).max)
        return self._staged(
            EventKind.RANGE,
            calls,
            size_bytes=np.maximum(calls["a"], 0),
            file=self._strings(calls["b"]),
            detail=cpu_ns,
            count=minor,
            flags=major,
        )

    def unfinished(self) -> Events:
        """Return the ranges that were begun and whose end was never recorded: SIGKILL, or the recording ended first."""
        begun = self.slots.of_kind(SlotKind.BEGIN)
        if not len(begun):
            return make_events(0)
        ended = pick(self.slots.records, np.isin(self.slots.records["kind"], (SlotKind.RANGE, SlotKind.ASYNC)))
        begun = pick(begun, ~np.isin(_keys(begun), _keys(ended)))
        self.context.quality.note(Issue.UNFINISHED_RANGE, len(begun))
        begun["end_ns"] = np.maximum(self.last_ns, begun["start_ns"])
        return self._staged(EventKind.RANGE, begun)

    def generators(self) -> Events:
        """Return the lives of generators; only the time inside the producer is theirs."""
        records = self.slots.of_kind(SlotKind.GENERATOR)
        lives = (records["end_ns"] - records["start_ns"]).astype(np.int64)
        return self._staged(
            EventKind.RANGE,
            records,
            count=np.clip(records["a"], 0, np.iinfo(np.int32).max),
            work_ns=np.clip(records["b"], 0, lives),
        )

    def asyncs(self) -> Events:
        """Return the stretches of requests that are no calls on a thread."""
        records = self.slots.of_kind(SlotKind.ASYNC)
        if not len(records):
            return make_events(0)
        track = self.context.tracks.other(TrackKind.REQUESTS, self.pid, 0, "requests")
        items = np.clip(records["a"], 1, np.iinfo(np.int32).max)
        return self._staged(EventKind.ASYNC, records, track=track, count=items, detail=records["b"])

    def imports(self) -> Events:
        """Return the executions of modules, each with what compiling its source took."""
        records = self.slots.of_kind(SlotKind.IMPORT)
        compiled_ns = np.clip(records["a"], 0, (records["end_ns"] - records["start_ns"]).astype(np.int64))
        names = self._strings(records["name"])
        return self._events(EventKind.IMPORT, records, stage=Stage.IMPORT, name=names, detail=compiled_ns)

    def dlopens(self) -> Events:
        """Return the loads of extension modules."""
        records = self.slots.of_kind(SlotKind.DLOPEN)
        return self._events(EventKind.DLOPEN, records, stage=Stage.IMPORT, name=self._strings(records["name"]))

    def marks(self) -> Events:
        """Return the instants that windows are derived from."""
        records = self.slots.of_kind(SlotKind.MARK)
        return self._events(EventKind.MARK, records, name=self._strings(records["name"]))

    def notes(self) -> Events:
        """Return what the instrument says of itself as 'topic: text'; a process title names the process."""
        records = self.slots.of_kind(SlotKind.NOTE)
        names = []
        for topic_id, text_id in zip(records["name"].tolist(), records["id"].tolist(), strict=True):
            topic, text = (self.slots.texts.get(string_id, "") for string_id in (topic_id, text_id))
            if topic == _PROCESS_TITLE:
                self.title = text or self.title
            names.append(self.context.strings.intern(f"{topic}: {text}"))
        return self._events(EventKind.NOTE, records, name=np.array(names, np.int32), request=0)

    def name_threads(self) -> None:
        """Tell the tracks of this process its name; its first thread exists even if it recorded nothing."""
        tracks = self.context.tracks
        tids = set(np.unique(self.slots.records["tid"]).tolist()) | ({self.pid} if self.pid else set())
        for tid in sorted(tids):
            tracks.update(tracks.thread(int(tid), self.pid), process=self.title, pid=self.pid)

    def _staged(self, kind: EventKind, records: Records, **columns: object) -> Events:
        """Make events of records named "stage|label"."""
        ids, rows = np.unique(records["name"], return_inverse=True)
        pairs = np.array([self._stage_and_label(int(string_id)) for string_id in ids], np.int64).reshape(-1, 2)
        missing = np.array([string_id not in self.slots.texts for string_id in ids.tolist()], np.bool_)
        self.context.quality.note(Issue.MISSING_STRING, int(missing[rows].sum()))
        return self._events(kind, records, stage=pairs[rows, 0], name=pairs[rows, 1], **columns)

    def _stage_and_label(self, string_id: int) -> tuple[int, int]:
        stage_label, separator, label = self.slots.texts.get(string_id, "").partition("|")
        stage = STAGE_BY_LABEL.get(stage_label)
        if not separator or (stage is None and stage_label):
            label = self.slots.texts.get(string_id, "")
        return NO_STAGE if stage is None else int(stage), self.context.strings.intern(label)

    def _events(self, kind: EventKind, records: Records, **columns: object) -> Events:
        columns.setdefault("track", self._threads(records["tid"]))
        columns.setdefault("request", self._strings(records["id"]))
        return make_events(
            len(records),
            start_ns=records["start_ns"].astype(np.int64),
            end_ns=records["end_ns"].astype(np.int64),
            kind=int(kind),
            **columns,
        )

    def _strings(self, ids: NDArray[np.integer]) -> NDArray[np.int32]:
        return intern_column(ids, self.slots, self.context)

    def _threads(self, tids: NDArray[np.integer]) -> NDArray[np.int32]:
        distinct, rows = np.unique(tids, return_inverse=True)
        tracks = np.array([self.context.tracks.thread(int(tid), self.pid) for tid in distinct], np.int32)
        return tracks[rows] if len(rows) else np.empty(0, np.int32)


def _matches(calls: Records, usage: Records) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the same call in both."""
    if not len(usage):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    _, of_call, of_usage = np.intersect1d(calls, usage, assume_unique=False, return_indices=True)
    return of_call, of_usage


def _keys(records: Records, *more: str) -> Records:
    """Return what identifies a call, as one comparable value a row: a thread starts no two calls of a name at once."""
    columns = ("tid", "start_ns", "name", *more)
    keys: Records = np.empty(len(records), [(column, records.dtype[column]) for column in columns])
    for column in columns:
        keys[column] = records[column]
    return keys
