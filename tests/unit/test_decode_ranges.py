"""Range logs to events, also when they are cut, hostile or unfinished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from slmtrace.capture.directory import RawLog
from slmtrace.capture.layout import HEADER_BYTES, LOST_OFFSET, SLOT, SlotKind
from slmtrace.capture.rawlog import encode_header, read_header
from slmtrace.decode.base import Context
from slmtrace.decode.ranges import decode
from slmtrace.model.events import EventKind
from slmtrace.model.quality import Issue
from slmtrace.model.tracks import TrackKind
from tests.support.ranges import Row, new_context, rows_of

PID = 4100
TID = 4101
NAMES = {
    1: "weights|from_pretrained",
    2: "|helper",
    3: "nosuchstage|thing",
    4: "torch",
    5: "ready",
    6: "hf-0",
    7: "process_title",
    8: "VLLM::Worker",
}


def slot(kind: int, **values: int) -> bytes:
    record = np.zeros(1, np.dtype(SLOT.numpy_fields()))
    record["kind"] = kind
    record["tid"] = TID
    for name, value in values.items():
        record[name] = value
    return record.tobytes()


def texts() -> bytes:
    records = b""
    for string_id, text in NAMES.items():
        data = text.encode()
        head = slot(SlotKind.TEXT, id=string_id, used=len(data))
        records += data.ljust(40, b"\0") + head[40:]
    return records


def decode_records(tmp_path: Path, *records: bytes, lost: int = 0, **facts: object) -> tuple[list[Row], Context, int]:
    header = bytearray(encode_header("ranges", SLOT, **{"pid": PID, "program": "serve.py", **facts}))
    header[LOST_OFFSET : LOST_OFFSET + 8] = lost.to_bytes(8, "little")
    path = tmp_path / f"ranges.{PID}.1.bin"
    path.write_bytes(bytes(header) + texts() + b"".join(records))
    context = new_context()
    fragment = decode(RawLog(path, read_header(path)), context)
    return rows_of(fragment, context), context, fragment.decoded


def test_stage_and_label_are_split(tmp_path: Path) -> None:
    rows, context, decoded = decode_records(
        tmp_path,
        slot(SlotKind.RANGE, start_ns=10, end_ns=20, name=1, id=6, a=4096),
        slot(SlotKind.RANGE, start_ns=12, end_ns=14, name=2),
        slot(SlotKind.RANGE, start_ns=15, end_ns=16, name=3),
    )

    assert [(row.stage, row.name, row.request, row.size_bytes, row.detail) for row in rows] == [
        ("weights", "from_pretrained", "hf-0", 4096, 0),
        ("", "helper", "", 0, 0),
        ("", "nosuchstage|thing", "", 0, 0),
    ]
    assert {(row.tid, row.pid, row.process) for row in rows} == {(TID, PID, "serve.py")}
    assert decoded == 3 + len(NAMES)
    assert context.quality.lines() == []


def test_a_range_that_never_ended_lasts_until_the_last_record(tmp_path: Path) -> None:
    rows, context, _ = decode_records(
        tmp_path,
        slot(SlotKind.BEGIN, start_ns=10, name=1),
        slot(SlotKind.BEGIN, start_ns=12, name=2),
        slot(SlotKind.RANGE, start_ns=12, end_ns=77, name=2),
    )

    assert [(row.name, row.start_ns, row.end_ns) for row in rows] == [("from_pretrained", 10, 77), ("helper", 12, 77)]
    assert context.quality.counts == {Issue.UNFINISHED_RANGE: 1}


def test_accounting_belongs_to_the_range_of_the_same_thread_and_times(tmp_path: Path) -> None:
    same = {"start_ns": 10, "end_ns": 90, "name": 1}

    rows, _, _ = decode_records(
        tmp_path,
        slot(SlotKind.RANGE, **same),
        slot(SlotKind.RANGE, **same, tid=TID + 1),
        slot(SlotKind.RUSAGE, **same, a=60, b=13 | 7 << 32),
        slot(SlotKind.RUSAGE, start_ns=10, end_ns=91, name=1, a=50),
    )

    assert [(row.tid, row.detail, row.count, row.flags) for row in rows] == [(TID, 60, 13, 7), (TID + 1, 0, 1, 0)]


def test_on_cpu_time_never_exceeds_its_range(tmp_path: Path) -> None:
    rows, _, _ = decode_records(
        tmp_path,
        slot(SlotKind.RANGE, start_ns=10, end_ns=20, name=1),
        slot(SlotKind.RUSAGE, start_ns=10, end_ns=20, name=1, a=500, b=(1 << 32) - 1 | ((1 << 31) - 1) << 32),
    )

    assert (rows[0].detail, rows[0].count, rows[0].flags) == (10, 2**31 - 1, 2**16 - 1)


def test_imports_marks_generators_and_notes_become_events(tmp_path: Path) -> None:
    rows, _, _ = decode_records(
        tmp_path,
        slot(SlotKind.IMPORT, start_ns=10, end_ns=50, name=4, a=30, used=1),
        slot(SlotKind.DLOPEN, start_ns=11, end_ns=40, name=4),
        slot(SlotKind.GENERATOR, start_ns=60, end_ns=90, name=1, a=8, b=12),
        slot(SlotKind.MARK, start_ns=95, end_ns=95, name=5, id=6),
        slot(SlotKind.NOTE, start_ns=96, end_ns=96, name=5, id=4),
    )

    assert rows[0].detail == 30
    assert [(row.kind, row.stage, row.name, row.request, row.count, row.work_ns) for row in rows] == [
        (EventKind.IMPORT, "import", "torch", "", 1, 40),
        (EventKind.DLOPEN, "import", "torch", "", 1, 29),
        (EventKind.RANGE, "weights", "from_pretrained", "", 8, 12),
        (EventKind.MARK, "", "ready", "hf-0", 1, 0),
        (EventKind.NOTE, "", "ready: torch", "", 1, 0),
    ]


def test_asynchronous_stretches_go_to_the_request_track_of_their_process(tmp_path: Path) -> None:
    rows, context, _ = decode_records(tmp_path, slot(SlotKind.ASYNC, start_ns=10, end_ns=50, name=1, id=6))

    (track,) = context.tracks.rows(TrackKind.REQUESTS)
    assert context.tracks[track].pid == PID
    assert [(row.kind, row.request) for row in rows] == [(EventKind.ASYNC, "hf-0")]


def test_what_is_wrong_is_counted(tmp_path: Path) -> None:
    rows, context, _ = decode_records(
        tmp_path,
        slot(SlotKind.RANGE, start_ns=20, end_ns=10, name=1),
        slot(SlotKind.RANGE, start_ns=1 << 63, end_ns=1 << 63, name=1),
        slot(SlotKind.RANGE, start_ns=1, end_ns=2, name=99),
        slot(999, start_ns=1, end_ns=2),
    )

    assert [(row.start_ns, row.end_ns) for row in rows] == [(1, 2), (20, 20)]
    assert context.quality.counts == {
        Issue.NEGATIVE_DURATION: 1,
        Issue.IMPLAUSIBLE_TIME: 1,
        Issue.MISSING_STRING: 1,
        Issue.UNKNOWN_KIND: 1,
    }


@pytest.mark.parametrize("size_bytes", range(HEADER_BYTES, HEADER_BYTES + 10 * 48, 7))
def test_a_log_cut_anywhere_is_decoded_up_to_the_cut(tmp_path: Path, size_bytes: int) -> None:
    decode_records(
        tmp_path,
        slot(SlotKind.BEGIN, start_ns=10, name=1),
        slot(SlotKind.RANGE, start_ns=12, end_ns=20, name=2),
        slot(SlotKind.MARK, start_ns=30, end_ns=30, name=5),
    )
    path = tmp_path / f"ranges.{PID}.1.bin"
    path.write_bytes(path.read_bytes()[:size_bytes])

    fragment = decode(RawLog(path, read_header(path)), new_context())

    assert fragment.decoded == (size_bytes - HEADER_BYTES) // SLOT.record_bytes()


def test_an_empty_log_still_names_its_process(tmp_path: Path) -> None:
    path = tmp_path / "ranges.7.1.bin"
    path.write_bytes(encode_header("ranges", SLOT, pid=7, program="idle.py"))
    context = new_context()

    fragment = decode(RawLog(path, read_header(path)), context)

    assert len(fragment.events) == 0
    assert context.tracks[context.tracks.find_thread(7)].process == "idle.py"


def test_a_process_title_renames_the_process(tmp_path: Path) -> None:
    rows, _, _ = decode_records(tmp_path, slot(SlotKind.NOTE, start_ns=5, end_ns=5, name=7, id=8))

    assert rows[0].process == "VLLM::Worker"


def test_lost_records_are_a_loss_of_the_source(tmp_path: Path) -> None:
    path = tmp_path / "ranges.7.1.bin"
    header = bytearray(encode_header("ranges", SLOT, pid=7))
    header[LOST_OFFSET] = 3
    path.write_bytes(bytes(header))

    fragment = decode(RawLog(path, read_header(path)), new_context())

    assert [(loss.source, loss.count) for loss in fragment.losses] == [("ranges", 3)]


def test_a_header_with_a_nonsense_pid_is_decoded_without_one(tmp_path: Path) -> None:
    rows, _, _ = decode_records(tmp_path, slot(SlotKind.RANGE, start_ns=1, end_ns=2, name=1), pid="x")

    assert rows[0].pid == 0
