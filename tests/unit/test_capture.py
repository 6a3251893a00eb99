"""The capture directory: manifest, raw logs, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import HEADER_BYTES, RING, SLOT, SlotKind
from slmtrace.capture.rawlog import create, encode_header
from slmtrace.decode.base import Context
from slmtrace.decode.slots import intern_column, read_slots
from slmtrace.errors import CaptureError
from slmtrace.model.quality import Issue, Quality
from slmtrace.model.strings import Strings
from slmtrace.model.tracks import Tracks


def slot(kind: SlotKind, **fields: int) -> bytes:
    record = np.zeros(1, np.dtype(SLOT.numpy_fields()))
    record["kind"] = kind
    for name, value in fields.items():
        record[name] = value
    return record.tobytes()


def text(string_id: int, data: bytes) -> bytes:
    record = bytearray(slot(SlotKind.TEXT, id=string_id, used=len(data)))
    record[: len(data)] = data
    return bytes(record)


def write_log(capture: Capture, *records: bytes, name: str = "ranges.1") -> Path:
    path = capture.raw / f"{name}.bin"
    descriptor = create(path, encode_header("ranges", SLOT, pid=1))
    os.write(descriptor, b"".join(records))
    os.close(descriptor)
    return path


@pytest.fixture
def capture(tmp_path: Path) -> Capture:
    return Capture.create(tmp_path / "capture")


def test_layouts_have_the_sizes_that_the_formats_promise() -> None:
    assert (SLOT.record_bytes(), RING.record_bytes()) == (48, 56)


def test_a_manifest_is_replaced_whole(capture: Capture) -> None:
    capture.write_manifest({"status": "recording"})
    capture.write_manifest({"status": "complete"})

    assert capture.read_manifest()["status"] == "complete"
    assert sorted(path.name for path in capture.path.iterdir()) == ["manifest.json", "raw"]


def test_files_are_for_their_owner_alone(capture: Capture) -> None:
    capture.write_manifest({})
    log = write_log(capture)

    assert [path.stat().st_mode & 0o077 for path in (capture.manifest_path, log, capture.raw)] == [0, 0, 0]


def test_a_capture_without_a_manifest_reads_as_aborted(capture: Capture) -> None:
    assert Capture.open(capture.path).read_manifest()["status"] == "aborted"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"schema": "other/9"}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_manifest_is_one_message_with_a_remedy(capture: Capture, content: bytes) -> None:
    capture.manifest_path.write_bytes(content)

    with pytest.raises(CaptureError) as caught:
        capture.read_manifest()

    assert caught.value.hint


def test_a_directory_that_holds_something_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")

    with pytest.raises(CaptureError, match="not empty"):
        Capture.create(tmp_path)


def test_strings_longer_than_a_record_come_back_whole(capture: Capture) -> None:
    long = ("weights|" + "x" * 200).encode()
    chunks = [text(7, long[i : i + 40]) for i in range(0, len(long), 40)]
    write_log(capture, *chunks, slot(SlotKind.RANGE, name=7, start_ns=5, end_ns=9))
    context = Context(Tracks(), Strings(), Quality())

    slots = read_slots(capture.raw_logs()[0][0], context)

    names = intern_column(slots.of_kind(SlotKind.RANGE)["name"], slots, context)
    assert [context.strings[i] for i in names] == [long.decode()]
    assert slots.n_records == 7


def test_a_log_reads_when_cut_at_any_byte(capture: Capture) -> None:
    path = write_log(capture, text(1, b"a"), slot(SlotKind.RANGE, name=1), slot(SlotKind.RANGE, name=1))
    whole = path.read_bytes()
    seen = set()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        logs, unreadable = capture.raw_logs()
        quality = Quality()
        found = read_slots(logs[0], Context(Tracks(), Strings(), quality)).n_records if logs else -len(unreadable)
        seen.add((size < HEADER_BYTES, found))
        assert (quality.counts[Issue.CUT_LOG] == 1) == (size > HEADER_BYTES and (size - HEADER_BYTES) % 48 != 0)

    assert seen == {(True, -1), (False, 0), (False, 1), (False, 2), (False, 3)}


def test_a_torn_record_reads_as_nothing(capture: Capture) -> None:
    write_log(capture, slot(SlotKind.EMPTY, start_ns=5, name=1), slot(SlotKind.RANGE))

    slots = read_slots(capture.raw_logs()[0][0], Context(Tracks(), Strings(), Quality()))

    assert slots.n_records == 1


def test_escape_sequences_in_names_do_not_survive(capture: Capture) -> None:
    write_log(capture, text(1, b"\x1b]0;evil\x07\xff"), slot(SlotKind.RANGE, name=1))
    context = Context(Tracks(), Strings(), Quality())

    slots = read_slots(capture.raw_logs()[0][0], context)

    assert slots.texts[1] == "\ufffd]0;evil\ufffd\ufffd"


def test_a_log_that_is_a_link_is_not_followed(capture: Capture, tmp_path: Path) -> None:
    path = write_log(capture)
    path.rename(tmp_path / "elsewhere.bin")
    path.symlink_to(tmp_path / "elsewhere.bin")

    logs, unreadable = capture.raw_logs()

    assert logs == []
    assert [log.reason for log in unreadable] == ["not a regular file"]
