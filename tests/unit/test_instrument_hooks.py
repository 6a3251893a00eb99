"""The hook tables, how rows find their symbols, and what a generate call tells."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from slmtrace.instrument import hooks as tables
from slmtrace.instrument import marks
from slmtrace.instrument.hooks import Hook, generation, load_table, loading, prompts
from slmtrace.instrument.recorder import recorder
from slmtrace.instrument.wrap import wrap
from slmtrace.model.events import EventKind
from slmtrace.model.taxonomy import STAGE_BY_LABEL
from tests.support.ranges import Row, read_raw


@pytest.fixture(autouse=True)
def raw(tmp_path: Path) -> Iterator[Path]:
    recorder.reopen_after_fork()
    assert recorder.open(str(tmp_path))
    prompts.forget()
    yield tmp_path
    recorder._reset()


def make_module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def install(monkeypatch: pytest.MonkeyPatch, *rows: Hook) -> None:
    monkeypatch.setattr(tables, "load_table", lambda name: list(rows))
    tables.install("any")


def notes(raw: Path) -> list[str]:
    return [row.name for row in read_raw(raw) if row.kind is EventKind.NOTE]


def marked(raw: Path) -> list[tuple[str, str]]:
    return [(row.name, row.request) for row in read_raw(raw) if row.kind is EventKind.MARK]


@pytest.mark.parametrize("table", tables.TABLES)
def test_every_stage_of_a_table_is_in_the_taxonomy(table: str) -> None:
    stages = {hook.stage for hook in load_table(table)}

    assert stages - {""} <= set(STAGE_BY_LABEL)


@pytest.mark.parametrize("table", tables.TABLES)
def test_no_two_rows_of_a_table_name_the_same_symbol_first(table: str) -> None:
    firsts = [str(hook.targets[0]) for hook in load_table(table)]

    assert sorted(set(firsts)) == sorted(firsts)


def test_the_first_symbol_that_exists_is_wrapped_and_named(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make_module(monkeypatch, "engine_a", new=lambda: 1)

    install(monkeypatch, Hook("engine_a", "old", stage="weights", also=(("engine_a", "new"),)))
    module.new()

    assert [(row.stage, row.name) for row in read_raw(raw)] == [("weights", "new")]


def test_a_row_that_finds_nothing_is_noted_once_its_last_module_is_there(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_module(monkeypatch, "engine_a")
    row = Hook("engine_a", "Loader.load", also=(("engine_never_imported", "load"),))

    install(monkeypatch, row, Hook("engine_a", "Gone.load"), Hook("engine_a", "extra", optional=True))

    assert notes(raw) == ["hook_miss: engine_a:Gone.load"]


def test_a_row_is_left_out_where_a_newer_symbol_makes_it_needless(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = make_module(monkeypatch, "engine_a", old=lambda: 1, new=lambda: 1)

    install(monkeypatch, Hook("engine_a", "old", unless="new"))
    module.old()

    assert read_raw(raw) == []


def test_the_program_is_ready_when_the_outermost_load_ends(raw: Path) -> None:
    load = Hook("m", "load", stage="weights", enter=loading.enter_loading, leave=loading.leave_loading)

    wrap(wrap(lambda: 1, load), load)()

    ranges = [row for row in read_raw(raw) if row.kind is EventKind.RANGE]
    (ready,) = (row for row in read_raw(raw) if row.kind is EventKind.MARK)
    assert ready.start_ns == ranges[0].end_ns


def test_a_load_that_failed_makes_nothing_ready(raw: Path) -> None:
    load = Hook("m", "load", enter=loading.enter_loading, leave=loading.leave_loading)

    with pytest.raises(ZeroDivisionError):
        wrap(lambda: 1 // 0, load)()

    assert marked(raw) == []


class Streamer:
    """A streamer of the user's own, whose put calls its base class's."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def put(self, value: Any) -> None:
        self.got.append(value)

    def end(self) -> None:
        self.got.append("end")


class Loud(Streamer):
    def put(self, value: Any) -> None:
        if value != "prompt":
            super().put(value)


def engine(has_stop_check: bool = True) -> Any:
    """Return generate() of an engine with the decoding loop of transformers, hooked."""

    def has_unfinished(finished: bool) -> bool:
        return not finished

    def stop_check(streamer: Any, step: int) -> bool:
        if streamer is not None:
            streamer.put(f"token {step}")
        return step == 2

    def generate(model: str, streamer: Any = None, inside: Any = None) -> str:
        if streamer is not None:
            streamer.put("prompt")
        step, finished = 0, False
        if model == "broken":
            raise ValueError("no such model")
        while check(finished):
            if inside is not None:
                inside()
            finished = stop(streamer, step)
            step += 1
        return "text"

    check = wrap(has_unfinished, Hook("m", "check", silent=True, gated=True, enter=generation.enter_loop_check))
    stop = stop_check
    if has_stop_check:
        stop = wrap(stop_check, Hook("m", "stop_check", stage="sample", gated=True, leave=generation.leave_stop_check))
    return wrap(
        generate,
        Hook("m", "generate", stage="submit", enter=generation.enter_generate, leave=generation.leave_generate),
    )


@pytest.fixture
def first_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "_next_request", itertools.count().__next__)
    monkeypatch.setattr(marks, "_prefix", lambda: "")


ALL_MARKS = [("request_start", "hf-0"), ("first_token", "hf-0"), ("request_end", "hf-0")]


@pytest.mark.usefixtures("first_id")
@pytest.mark.parametrize("has_stop_check", [True, False])
@pytest.mark.parametrize("streamer", [None, Streamer, Loud])
def test_a_request_is_marked_from_its_start_to_its_end(raw: Path, streamer: Any, has_stop_check: bool) -> None:
    generate = engine(has_stop_check)

    assert generate("model", streamer=streamer and streamer()) == "text"

    assert marked(raw) == ALL_MARKS
    assert marks.current().request is None


@pytest.mark.usefixtures("first_id")
def test_with_a_streamer_the_first_token_is_out_when_its_put_returns(raw: Path) -> None:
    streamer = Loud()

    engine()("model", streamer=streamer)

    rows = read_raw(raw)
    puts = [row for row in rows if row.name == "streamer.put"]
    (first,) = (row for row in rows if row.name == "first_token")
    # The prompt's put, the first token's put and the base class's put inside it; later tokens are not recorded.
    assert len(puts) == 3
    assert first.start_ns == puts[1].end_ns
    assert streamer.got == ["token 0", "token 1", "token 2"]


@pytest.mark.usefixtures("first_id")
def test_without_a_streamer_the_first_token_is_out_when_the_stop_check_ends(raw: Path) -> None:
    engine()("model")

    rows = read_raw(raw)
    (check,) = (row for row in rows if row.name == "stop_check")
    assert [row.start_ns for row in rows if row.name == "first_token"] == [check.end_ns]


@pytest.mark.usefixtures("first_id")
def test_a_streamer_that_is_never_told_a_token_does_not_hide_the_first_one(raw: Path) -> None:
    class Deaf(Streamer):
        def put(self, value: Any) -> None:
            raise AssertionError("unused")

    deaf = Deaf()
    deaf.put = lambda value: None  # type: ignore[method-assign]

    engine()("model", streamer=deaf)

    assert marked(raw) == ALL_MARKS


@pytest.mark.usefixtures("first_id")
def test_a_request_that_fails_ends_without_a_first_token(raw: Path) -> None:
    with pytest.raises(ValueError, match="no such model"):
        engine()("broken")

    assert marked(raw) == [("request_start", "hf-0"), ("request_end", "hf-0")]


@pytest.mark.usefixtures("first_id")
def test_an_assistant_that_generates_inside_a_request_is_not_a_request(raw: Path) -> None:
    generate = engine()

    generate("model", inside=lambda: generate("assistant"))

    assert marked(raw) == ALL_MARKS


def tokenizer() -> tuple[Any, Any]:
    tokenize = Hook("m", "tokenizer", stage="tokenize", enter=prompts.enter_tokenize, leave=prompts.leave_tokenize)
    template = Hook("m", "template", stage="tokenize", enter=prompts.enter_template, leave=prompts.leave_tokenize)
    return wrap(lambda: 1, tokenize), wrap(lambda: 1, template)


def starts(raw: Path) -> tuple[list[Row], list[Row]]:
    rows = read_raw(raw)
    return [row for row in rows if row.stage == "tokenize"], [row for row in rows if row.name == "request_start"]


def test_a_request_starts_with_the_last_prompt_that_its_thread_tokenized(raw: Path) -> None:
    tokenize, _ = tokenizer()
    generate = engine()

    tokenize()
    tokenize()
    generate("model")
    generate("model")

    calls, requests = starts(raw)
    assert requests[0].start_ns == calls[1].start_ns
    assert requests[1].start_ns > calls[1].end_ns


def test_a_request_starts_with_the_chat_template_of_its_prompt(raw: Path) -> None:
    tokenize, template = tokenizer()

    template()
    tokenize()
    engine()("model")

    calls, requests = starts(raw)
    assert requests[0].start_ns == calls[0].start_ns


def test_a_thread_that_only_generates_takes_the_prompt_that_another_tokenized(raw: Path) -> None:
    tokenize, _ = tokenizer()

    tokenize()
    thread = threading.Thread(target=engine(), args=("model",))
    thread.start()
    thread.join()

    calls, requests = starts(raw)
    assert requests[0].start_ns == calls[0].start_ns
    assert requests[0].tid != calls[0].tid


def test_a_prompt_tokenized_before_the_model_was_loaded_starts_no_request(raw: Path) -> None:
    tokenize, _ = tokenizer()
    load = wrap(lambda: 1, Hook("m", "load", enter=loading.enter_loading, leave=loading.leave_loading))

    tokenize()
    load()
    engine()("model")

    calls, requests = starts(raw)
    assert requests[0].start_ns > calls[0].end_ns


def test_request_ids_of_the_started_process_are_plain_and_of_its_children_carry_their_pid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "environ").write_bytes(b"HOME=/root\0SLMTRACE_RAW=/tmp\0")

    monkeypatch.setattr(marks, "_process_prefix", (0, ""))
    first = marks._prefix()
    monkeypatch.setattr(marks, "_process_prefix", (0, ""))
    monkeypatch.setattr(marks, "open", lambda *_: (tmp_path / "environ").open("rb"), raising=False)
    child = marks._prefix()

    assert (first, child) == ("", f"{os.getpid()}-")


class _Tensor:
    def __init__(self, n: int) -> None:
        self._n = n

    def numel(self) -> int:
        return self._n


@pytest.mark.parametrize(
    ("result", "n_tokens"),
    [
        ({"input_ids": _Tensor(128)}, 128),
        ({"input_ids": [1, 2, 3]}, 3),
        ({"input_ids": [[1, 2, 3], [4, 5]]}, 5),
        ({"input_ids": []}, 0),
        ([7, 8], 2),
    ],
)
def test_the_size_of_a_tokenizer_call_is_its_tokens(result: object, n_tokens: int) -> None:
    from slmtrace.instrument.hooks.hf import _n_tokens

    assert _n_tokens(((), {}), result) == n_tokens
