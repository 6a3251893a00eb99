"""Wrapping: the target sees the same arguments, results and exceptions; the log sees the calls."""

from __future__ import annotations

import asyncio
import functools
import inspect
import mmap
import sys
import traceback
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slmtrace.instrument import constants, marks, nvtx
from slmtrace.instrument.hooks.base import Hook
from slmtrace.instrument.recorder import recorder
from slmtrace.instrument.wrap import FAILED, is_wrapped, patch, wrap
from slmtrace.model.events import EventKind
from tests.support.ranges import Row, read_raw


@pytest.fixture(autouse=True)
def raw(tmp_path: Path) -> Iterator[Path]:
    recorder.reopen_after_fork()
    assert recorder.open(str(tmp_path))
    yield tmp_path
    recorder._reset()


def hook(**options: Any) -> Hook:
    return Hook("module", "function", stage="weights", label="work", **options)


def only(raw: Path) -> Row:
    (row,) = read_raw(raw)
    return row


def test_a_call_keeps_its_signature_result_and_names(raw: Path) -> None:
    def add(left: int, *, right: int = 2) -> int:
        """Add."""
        return left + right

    wrapped = wrap(add, hook())

    assert wrapped(1, right=3) == 4
    assert inspect.signature(wrapped) == inspect.signature(add)
    assert (wrapped.__name__, wrapped.__doc__, wrapped.__module__) == ("add", "Add.", __name__)
    assert (only(raw).stage, only(raw).name) == ("weights", "work")


def test_an_exception_passes_unchanged_and_its_call_is_recorded(raw: Path) -> None:
    error = KeyError("mine")

    def fail() -> None:
        raise error

    with pytest.raises(KeyError) as caught:
        wrap(fail, hook())()

    assert caught.value is error
    assert caught.value.__context__ is None
    assert only(raw).name == "work"


def test_the_tracebacks_of_the_target_have_no_frame_of_ours(raw: Path) -> None:
    def fail() -> None:
        raise KeyError("mine")

    async def fail_later() -> None:
        fail()

    sliced = hook(sliced=True, later_stage="weights")
    calls = (
        (wrap(fail, hook()), ["fail"]),
        (lambda: asyncio.run(wrap(fail_later, hook())()), ["fail_later", "fail"]),
        (lambda: asyncio.run(wrap(fail_later, sliced)()), ["fail_later", "fail"]),
        (functools.partial(wrap({}.__getitem__, hook()), "mine"), []),
    )

    for call, names in calls:
        with pytest.raises(KeyError) as caught:
            call()

        frames = traceback.extract_tb(caught.value.__traceback__)
        assert [frame.name for frame in frames if frame.name in ("fail", "fail_later")] == names
        if sys.version_info >= (3, 11):  # Python 3.10 raises again with the traceback that it caught
            assert not [frame for frame in frames if "/instrument/" in frame.filename]


def test_what_fails_inside_a_hook_is_noted_once_and_never_raised(raw: Path) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("inside the hook")

    wrapped = wrap(lambda: 5, hook(enter=fail, leave=fail, size=fail))

    assert [wrapped(), wrapped()] == [5, 5]
    rows = read_raw(raw)
    assert [row.name for row in rows if row.kind is EventKind.RANGE] == ["work", "work"]
    assert [row.name for row in rows if row.kind is EventKind.NOTE] == [
        "hook_error: weights|work: RuntimeError: inside the hook"
    ]


def test_static_and_class_methods_stay_what_they_are(raw: Path) -> None:
    class Loader:
        @staticmethod
        def static(x: int) -> int:
            return x

        @classmethod
        def of_class(cls) -> type:
            return cls

        def method(self) -> Any:
            return self

    class Special(Loader):
        pass

    for name in ("static", "of_class", "method"):
        patch(Loader, name, hook())

    assert Special.static(3) == 3
    assert Special.of_class() is Special
    special = Special()
    assert special.method() is special
    assert isinstance(vars(Loader)["static"], staticmethod)
    assert len(read_raw(raw)) == 3


def test_wrapping_twice_records_once(raw: Path) -> None:
    module = SimpleNamespace(function=lambda: 1)

    patch(module, "function", hook())
    patch(module, "function", hook())
    module.function()

    assert len(read_raw(raw)) == 1


def test_a_decorator_that_copies_our_attributes_is_not_taken_for_us() -> None:
    wrapped = wrap(lambda: 1, hook())

    assert is_wrapped(wrapped)
    assert not is_wrapped(functools.wraps(wrapped)(wrapped))


def test_accounting_tells_on_cpu_time_and_faults_of_the_call(raw: Path) -> None:
    def touch() -> int:
        with mmap.mmap(-1, 97 * 4096) as pages:
            for page in range(97):
                pages[page * 4096] = 1
        return 97

    wrap(touch, hook(accounting=True, size=lambda call, result: result * 4096))()

    row = only(raw)
    assert 97 <= row.count < 297
    assert 0 < row.detail <= row.end_ns - row.start_ns
    assert row.size_bytes == 97 * 4096


def test_a_begun_range_that_ended_is_one_event(raw: Path) -> None:
    wrap(lambda: 1, hook(begin=True))()

    assert only(raw).name == "work"


def test_a_coroutine_stays_one_and_overlapping_calls_go_to_the_request_track(raw: Path) -> None:
    async def serve(request: str) -> str:
        await asyncio.sleep(0.01)
        return request

    async def both() -> list[str]:
        return await asyncio.gather(wrapped("a"), wrapped("b"))

    wrapped = wrap(serve, hook(request=lambda call, result: result))

    assert inspect.iscoroutinefunction(wrapped)
    assert asyncio.run(both()) == ["a", "b"]
    first, second = read_raw(raw)
    assert {first.kind, second.kind} == {EventKind.ASYNC}
    assert {first.request, second.request} == {"a", "b"}
    assert second.start_ns < first.end_ns


def test_a_generator_passes_values_exceptions_and_its_result_both_ways(raw: Path) -> None:
    def talk() -> Generator[Any, Any, str]:
        got = yield "first"
        try:
            yield got
        except KeyError:
            yield "caught"
        return "done"

    def delegate() -> Generator[Any, Any, None]:
        results.append((yield from wrapped()))

    results: list[str] = []
    wrapped = wrap(talk, hook())
    generator = delegate()

    assert inspect.isgeneratorfunction(wrapped)
    assert next(generator) == "first"
    assert generator.send("sent") == "sent"
    assert generator.throw(KeyError()) == "caught"
    assert list(generator) == []
    assert results == ["done"]
    assert only(raw).count == 3
    assert only(raw).work_ns <= only(raw).end_ns - only(raw).start_ns


def test_closing_a_generator_early_closes_the_one_inside(raw: Path) -> None:
    closed = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    generator = wrap(endless, hook())()
    next(generator)
    generator.close()

    assert closed == [True]
    assert only(raw).count == 1


def test_an_async_generator_passes_items_and_sent_values(raw: Path) -> None:
    async def stream() -> AsyncGenerator[Any, Any]:
        got = yield 1
        yield got

    async def consume() -> list[Any]:
        generator = wrapped()
        return [await generator.asend(None), await generator.asend("sent"), [item async for item in generator]]

    wrapped = wrap(stream, hook())

    assert inspect.isasyncgenfunction(wrapped)
    assert asyncio.run(consume()) == [1, "sent", []]
    assert only(raw).kind is EventKind.ASYNC


def test_a_gated_call_is_not_recorded_after_the_first_token(raw: Path) -> None:
    wrapped = wrap(lambda: 1, hook(gated=True))
    marks.current().request = request = marks.Request("hf-0")

    wrapped()
    request.is_delivered = True
    wrapped()

    assert only(raw).request == "hf-0"


def test_a_call_that_raised_is_told_apart_from_one_that_returned_none(raw: Path) -> None:
    results: list[Any] = []
    note = hook(silent=True, leave=lambda call, result, start_ns, end_ns: results.append(result))

    wrap(lambda: None, note)()
    with pytest.raises(ZeroDivisionError):
        wrap(lambda: 1 // 0, note)()

    assert results == [None, FAILED]
    assert read_raw(raw) == []


class _FakeDomain:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def get_event_attributes(self, message: str) -> str:
        return message

    def push_range(self, attributes: str) -> None:
        self.calls.append("push " + attributes)

    def pop_range(self) -> None:
        self.calls.append("pop")


def test_ranges_are_nvtx_ranges_where_a_tool_listens(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = _FakeDomain()
    for name, value in (("_is_settled", True), ("may_listen", True), ("_domain", domain), ("_attributes", {})):
        monkeypatch.setattr(nvtx, name, value)

    wrap(wrap(lambda: 1, hook()), Hook("module", "outer"))()

    assert domain.calls == ["push outer", "push weights|work", "pop", "pop"]


def test_nvtx_is_not_even_imported_where_no_tool_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvtx, "_is_settled", False)
    monkeypatch.setattr(nvtx, "may_listen", True)
    for name in ("NVTX_INJECTION64_PATH", "NVTX_INJECTION32_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "nvtx", None)

    assert not nvtx.push("weights|work")
    assert not nvtx.may_listen


def test_a_mark_may_lie_in_the_past(raw: Path) -> None:
    marks.mark(constants.MARK_REQUEST_START, "hf-7", 123)

    row = only(raw)
    assert (row.kind, row.name, row.request, row.start_ns) == (EventKind.MARK, "request_start", "hf-7", 123)
