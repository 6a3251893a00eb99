"""What the timeline calls an event: names made once per distinct (kind, text, file), then spread over the rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...capture.layout import (
    FAULT_FILE,
    FAULT_HUGE,
    FAULT_MAJOR,
    FAULT_PROTECTION,
    FoldClass,
)
from ...model.events import NO_STAGE, EventKind, Events, Ints
from ...model.strings import Strings
from ...model.taxonomy import Stage
from ...units import format_bytes
from ..plain import shorten_path
from .emit import EventWriter

_FOLD_NAMES = {
    FoldClass.ANON_FAULT: "faults on anonymous memory",
    FoldClass.FILE_FAULT: "faults on cached file pages",
    FoldClass.READ: "read calls",
    FoldClass.ALLOC: "mmap and brk calls",
    FoldClass.OPEN_STAT: "open and stat calls",
    FoldClass.FUTEX: "futex calls",
    FoldClass.OTHER_SYSCALL: "other system calls",
    FoldClass.YIELD: "sched_yield and empty polls",
    FoldClass.PAGE_CACHE_ADD: "pages read into the page cache",
    FoldClass.MALLOC: "malloc calls",
    FoldClass.IPC: "send, receive and poll calls",
}
_FAULT_FLAGS = FAULT_MAJOR | FAULT_FILE | FAULT_HUGE | FAULT_PROTECTION


def event_names(writer: EventWriter, events: Events, strings: Strings) -> Ints:
    """Return the interned name of each event."""
    is_fault = events.kind == EventKind.FAULT
    is_io = events.kind == EventKind.BLOCK_IO
    flags = np.where(is_fault, events.flags & _FAULT_FLAGS, np.where(events.kind == EventKind.FOLD, events.flags, 0))
    key = np.column_stack(
        [
            events.kind.astype(np.int64),
            np.where(is_fault, 0, events.name).astype(np.int64),
            flags.astype(np.int64),
            np.where(is_fault, events.file, 0).astype(np.int64),
            np.where(is_io, events.size_bytes, 0),
            np.where(events.name == 0, events.stage, NO_STAGE).astype(np.int64),
        ]
    )
    return _map_unique(key, lambda row: writer.name(_label(row, strings)))


def texts(writer: EventWriter, string_ids: Ints, strings: Strings) -> Ints:
    """Return interned argument texts of trace strings; 0 stays 0."""
    return _map_unique(string_ids.astype(np.int64)[:, None], lambda row: writer.text(strings[row[0]]) if row[0] else 0)


def stage_texts(writer: EventWriter, stages: Ints) -> Ints:
    """Return interned argument texts of stages; no stage is 0."""
    return _map_unique(
        stages.astype(np.int64)[:, None],
        lambda row: writer.text(Stage(row[0]).label) if row[0] in Stage.__members__.values() else 0,
    )


def _map_unique(key: Ints, value: Callable[[list[int]], int]) -> Ints:
    """Call `value` once per distinct row of `key`, in the order of first appearance, and spread the answers."""
    if not len(key):
        return np.empty(0, np.int64)
    folded, spans = np.zeros(len(key), np.int64), 1
    # One number a row: np.unique(axis=0) compares whole rows, ten times slower.
    for column in key.T:
        digits, span = column - column.min(), int(column.max()) - int(column.min()) + 1
        if spans * span >= 1 << 62:
            _, folded = np.unique(folded, return_inverse=True)
            _, digits = np.unique(column, return_inverse=True)
            spans, span = int(folded.max()) + 1, int(digits.max()) + 1
        folded, spans = folded * span + digits, spans * span
    _, first, inverse = np.unique(folded, return_index=True, return_inverse=True)
    answers = np.zeros(len(first), np.int64)
    for distinct in np.argsort(first, kind="stable").tolist():
        answers[distinct] = value(key[first[distinct]].tolist())
    return answers[inverse]


def _label(row: list[int], strings: Strings) -> str:
    kind, name_id, flags, file_id, size_bytes, stage = row
    name = strings[name_id]
    if kind == EventKind.FAULT:
        return _fault_label(flags, strings[file_id])
    if kind == EventKind.FOLD:
        return _FOLD_NAMES[FoldClass(flags)] if flags in FoldClass.__members__.values() else name
    if kind == EventKind.BLOCK_IO:
        return f"{name or 'request'} {format_bytes(size_bytes)}"
    prefix = {EventKind.IMPORT: "import ", EventKind.DLOPEN: "dlopen "}.get(EventKind(kind), "")
    if not name and stage in Stage.__members__.values():
        name = Stage(stage).label
    return prefix + (name or EventKind(kind).name.lower().replace("_", " "))


def _fault_label(flags: int, path: str) -> str:
    if flags & FAULT_MAJOR:
        what = "major fault"
    elif flags & FAULT_HUGE:
        what = "huge-page fault"
    elif flags & FAULT_PROTECTION:
        what = "copy-on-write fault"
    else:
        what = "minor fault"
    where = shorten_path(path, 80) if path else "a file" if flags & FAULT_FILE else "anonymous memory"
    return f"{what}: {where}"
