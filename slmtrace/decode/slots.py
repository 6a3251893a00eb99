"""SLOT records: split off their strings, and give the rest with trace-wide string ids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..capture.directory import RawLog
from ..capture.layout import SLOT, TEXT_BYTES, SlotKind
from ..model.quality import Issue
from .base import LATEST_NS, Context, Records, join_texts, pick, read_records


@dataclass(frozen=True, slots=True)
class Slots:
    """The records of a SLOT log without its TEXT and EMPTY ones, and its strings."""

    records: Records
    texts: dict[int, str]  # by the log's own string id
    n_records: int  # all that were written, texts too

    def of_kind(self, kind: SlotKind) -> Records:
        """Return the records of one kind."""
        return pick(self.records, self.records["kind"] == kind)


def read_slots(log: RawLog, context: Context) -> Slots:
    """Read a SLOT log; a torn record reads as EMPTY and is left out, one with times that no clock shows is counted."""
    records = read_records(log, SLOT, context.quality)
    kinds = np.ascontiguousarray(records["kind"])
    texts = pick(records, kinds == SlotKind.TEXT)
    chunks = np.frombuffer(texts.tobytes(), np.uint8).reshape(len(texts), SLOT.record_bytes())[:, :TEXT_BYTES]
    strings = join_texts(texts["id"], texts["used"], chunks)
    is_other = (kinds != SlotKind.TEXT) & (kinds != SlotKind.EMPTY)
    is_in_time = (records["start_ns"] < LATEST_NS) & (records["end_ns"] < LATEST_NS)
    context.quality.note(Issue.IMPLAUSIBLE_TIME, int((is_other & ~is_in_time).sum()))
    return Slots(pick(records, is_other & is_in_time), strings, len(texts) + int(is_other.sum()))


def intern_column(ids: NDArray[np.integer], slots: Slots, context: Context) -> NDArray[np.int32]:
    """Turn a column of the log's string ids into trace-wide ones; an unknown id becomes '' and is counted."""
    distinct, inverse = np.unique(np.asarray(ids, np.int64), return_inverse=True)
    mapped = np.zeros(len(distinct), np.int32)
    for row, string_id in enumerate(distinct.tolist()):
        text = slots.texts.get(string_id)
        if text is None:
            if string_id:
                context.quality.note(Issue.MISSING_STRING, int((inverse == row).sum()))
        else:
            mapped[row] = context.strings.intern(text)
    return mapped[inverse].astype(np.int32)
