"""Raw logs made by hand and read back, for the tests of decoders and probes."""

from __future__ import annotations

from pathlib import Path

from slmtrace.capture.directory import Capture, RawLog
from slmtrace.decode.base import Context
from slmtrace.model.quality import Quality
from slmtrace.model.strings import Strings
from slmtrace.model.tracks import Tracks
from slmtrace.probes.slotlog import SlotLog


def make_context() -> Context:
    return Context(Tracks(), Strings(), Quality())


def new_log(capture: Capture, source: str, name: str = "", **facts: object) -> SlotLog:
    return SlotLog(capture.raw / f"{name or source}.bin", source, **facts)


def new_capture(path: Path) -> Capture:
    return Capture.create(path / "capture")


def only_log(capture: Capture) -> RawLog:
    logs, unreadable = capture.raw_logs()
    assert len(logs) == 1, (logs, unreadable)
    assert unreadable == []
    return logs[0]
