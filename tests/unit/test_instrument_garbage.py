"""Long garbage collections become ranges; short ones leave no trace."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest

from slmtrace.instrument import constants, garbage


class FakeRecorder:
    """Keeps what would be written."""

    def __init__(self) -> None:
        self.written: list[tuple[Any, ...]] = []

    def intern(self, text: str) -> str:
        return text

    def write(self, *record: Any) -> None:
        self.written.append(record)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRecorder]:
    fake = FakeRecorder()
    monkeypatch.setattr(garbage, "recorder", fake)
    yield fake


def test_a_long_collection_is_a_range_from_its_start_to_its_stop(
    recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([1_000, 1_000 + garbage.SHORTEST_NS])
    monkeypatch.setattr(garbage, "monotonic_ns", lambda: next(times))

    garbage._note("start", {})
    garbage._note("stop", {})

    assert recorder.written == [(constants.RANGE, "|garbage collection", 1_000, 1_000 + garbage.SHORTEST_NS)]


def test_a_short_collection_is_not_recorded(recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1_000, 2_000])
    monkeypatch.setattr(garbage, "monotonic_ns", lambda: next(times))

    garbage._note("start", {})
    garbage._note("stop", {})

    assert recorder.written == []


def test_the_interpreter_tells_of_every_collection(recorder: FakeRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "SHORTEST_NS", 0)
    garbage.install()

    gc.collect()
    gc.callbacks.remove(garbage._note)

    assert {record[1] for record in recorder.written} == {garbage.NAME}
