"""Requests that a client and its server both mark are counted once."""

from __future__ import annotations

from pathlib import Path

from slmtrace.capture.layout import SlotKind
from slmtrace.probes.slotlog import SlotLog
from slmtrace.recording.tail import RangesTail


def mark_ends(path: Path, *requests: str) -> None:
    log = SlotLog(path, "ranges")
    for request in requests:
        log.append(SlotKind.MARK, 1, 1, name=log.intern("request_end"), text_id=log.intern(request))
    log.close()


def test_a_request_of_two_processes_is_one(tmp_path: Path) -> None:
    mark_ends(tmp_path / "ranges.1.bin", "a", "b")
    mark_ends(tmp_path / "ranges.2.bin", "b", "a")

    assert RangesTail(tmp_path).look().n_ended == 2


def test_an_id_that_one_process_uses_twice_is_two_requests(tmp_path: Path) -> None:
    mark_ends(tmp_path / "ranges.1.bin", "a", "a")

    assert RangesTail(tmp_path).look().n_ended == 2


def test_requests_without_an_id_are_all_counted(tmp_path: Path) -> None:
    mark_ends(tmp_path / "ranges.1.bin", "")
    mark_ends(tmp_path / "ranges.2.bin", "")

    assert RangesTail(tmp_path).look().n_ended == 2
