"""Coroutines of the target: what they do on their thread is recorded, and nothing about them changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from slmtrace.instrument.hooks import Hook
from slmtrace.instrument.recorder import recorder
from slmtrace.instrument.wrap import wrap
from slmtrace.model.events import EventKind
from tests.support.ranges import Row, read_raw


@pytest.fixture(autouse=True)
def raw(tmp_path: Path) -> Iterator[Path]:
    recorder.reopen_after_fork()
    assert recorder.open(str(tmp_path))
    yield tmp_path
    recorder._reset()


def sliced(**options: Any) -> Hook:
    return Hook("m", "f", stage="submit", later_stage="deliver", sliced=True, **options)


def slices(raw: Path) -> list[Row]:
    return [row for row in read_raw(raw) if row.kind is EventKind.RANGE]


def test_a_coroutine_is_one_range_for_each_stretch_that_it_runs(raw: Path) -> None:
    async def work(value: int) -> int:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return value

    assert asyncio.run(wrap(work, sliced())(7)) == 7

    assert [row.stage for row in slices(raw)] == ["submit", "deliver", "deliver"]
    assert [row.kind for row in read_raw(raw)].count(EventKind.ASYNC) == 1


def test_what_never_waits_is_one_range(raw: Path) -> None:
    async def work() -> None:
        pass

    asyncio.run(wrap(work, sliced())())

    assert [row.stage for row in slices(raw)] == ["submit"]


def test_an_exception_passes_and_the_stretch_is_recorded(raw: Path) -> None:
    async def work() -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        asyncio.run(wrap(work, sliced())())

    assert len(slices(raw)) == 1


def test_a_cancellation_reaches_the_coroutine() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main() -> None:
        task = asyncio.ensure_future(wrap(work, sliced())())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert seen == ["cancelled"]


def test_a_stream_keeps_its_items_and_tells_them(raw: Path) -> None:
    told: list[int] = []

    async def stream(n: int) -> AsyncGenerator[int, None]:
        for item in range(n):
            await asyncio.sleep(0)
            yield item

    async def main() -> list[int]:
        hook = sliced(item=lambda call, item, at_ns: told.append(item))
        return [item async for item in wrap(stream, hook)(3)]

    assert asyncio.run(main()) == [0, 1, 2]

    assert told == [0, 1, 2]
    assert slices(raw)[0].stage == "submit"
    assert {row.stage for row in slices(raw)[1:]} == {"deliver"}


def test_a_stream_that_is_left_early_is_closed() -> None:
    closed: list[bool] = []

    async def stream() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def main() -> None:
        running = wrap(stream, sliced())()
        assert await running.__anext__() == 1
        await running.aclose()

    asyncio.run(main())

    assert closed == [True]


def test_a_call_that_is_not_admitted_runs_and_leaves_nothing(raw: Path) -> None:
    wrapped = wrap(lambda value: value, Hook("m", "f", admit=lambda call: call[0][0] > 1))

    assert [wrapped(1), wrapped(2)] == [1, 2]

    assert len(slices(raw)) == 1
