from __future__ import annotations

import os
from pathlib import Path

import pytest

from slmtrace.capture.layout import SlotKind
from slmtrace.capture.rawlog import read_header
from slmtrace.decode.slots import read_slots
from tests.support.logs import make_context, new_capture, new_log, only_log


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    log = new_log(capture, "proc", counter_hz=7)
    long_text = "a name of more than forty bytes, so that it takes two records: äöü"
    log.append(SlotKind.SAMPLE, 1, 2, a=-3, b=4, tid=5, name=log.intern(long_text), text_id=log.intern("x"))
    log.close()

    slots = read_slots(only_log(capture), make_context())

    assert slots.texts == {1: long_text, 2: "x"}
    assert [int(slots.records[0][field]) for field in ("start_ns", "end_ns", "a", "b", "tid", "name", "id")] == [
        *(1, 2, -3, 4, 5, 1, 2)
    ]
    assert slots.n_records == log.written == 4
    assert only_log(capture).header["counter_hz"] == 7


def test_a_text_is_written_once(tmp_path: Path) -> None:
    log = new_log(new_capture(tmp_path), "proc")

    ids = [log.intern("same") for _ in range(5)]
    log.close()

    assert ids == [1] * 5
    assert log.written == 1


def test_a_record_reaches_the_file_without_a_close_when_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = new_capture(tmp_path)
    log = new_log(capture, "proc")
    now_ns = 10**18
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns)

    log.append(SlotKind.COUNTER, 1)

    assert read_slots(only_log(capture), make_context()).n_records == 1


def test_a_full_disk_loses_records_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = new_capture(tmp_path)
    log = new_log(capture, "proc")
    real_write = os.write
    room = [48 + 20]

    def write_until_full(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        done = real_write(descriptor, bytes(data)[: room[0]])
        room[0] -= done
        return done

    for ts_ns in range(5):
        log.append(SlotKind.COUNTER, ts_ns)
    monkeypatch.setattr(os, "write", write_until_full)
    log.flush()
    monkeypatch.setattr(os, "write", real_write)
    log.append(SlotKind.COUNTER, 99)
    log.close()

    records = read_slots(only_log(capture), make_context()).records
    assert records["start_ns"].tolist() == [0, 99]
    assert (log.written, log.lost) == (2, 4)
    assert read_header(only_log(capture).path)["lost"] == 4
