"""The vLLM rows at work on stand-ins: marks, request ids, the engine's queue, messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from slmtrace.capture.layout import RANGE_RECEIVE, RANGE_SEND
from slmtrace.instrument.hooks import Hook, load_table, loading
from slmtrace.instrument.hooks.vllm import core, ids, messages, requests, seams
from slmtrace.instrument.recorder import recorder
from slmtrace.instrument.wrap import patch, wrap
from slmtrace.model.events import EventKind
from tests.support.ranges import Row, read_raw

INNER = "cmpl-abc-0-1a2b3c4d"


@pytest.fixture(autouse=True)
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    recorder.reopen_after_fork()
    assert recorder.open(str(tmp_path))
    for module, name, value in (
        (requests, "_awaited", set()),
        (requests, "_offline", {}),
        (core, "_awaited", set()),
        (core, "_leaving", set()),
        (core, "_scheduled", {}),
        (core, "_last_step_end_ns", 0),
        (loading, "is_embedded", False),
    ):
        monkeypatch.setattr(module, name, value)
    requests._current.set(None)
    yield tmp_path
    recorder._reset()


def row(attribute: str) -> Hook:
    return next(hook for hook in load_table("vllm") if hook.attribute == attribute)


def hook_class(cls: type, **attributes: str) -> None:
    """Wrap methods of a stand-in as the table says for the attributes of that name."""
    for method, attribute in attributes.items():
        patch(cls, method, row(attribute))


def marked(raw: Path) -> list[tuple[str, str]]:
    return [(row.name, row.request) for row in read_raw(raw) if row.kind is EventKind.MARK]


def named(raw: Path, name: str) -> list[Row]:
    return [row for row in read_raw(raw) if row.name == name]


class Protocol:
    """A stand-in for uvicorn's protocol: one request per call."""

    def __init__(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.cycle: Any = None
        self.headers = headers

    def data_received(self, data: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.cycle = Cycle(self)


class Cycle:
    """A stand-in for uvicorn's cycle: its handler streams what the engine yields."""

    def __init__(self, protocol: Protocol) -> None:
        self.transport = SimpleNamespace(get_protocol=lambda: protocol)
        self.scope = {"headers": protocol.headers}
        self.response_complete = False

    async def run_asgi(self, app: Any) -> None:
        await app(self)
        self.response_complete = True

    async def send(self, message: dict[str, Any]) -> None:
        pass


class Engine:
    async def generate(self, prompt: str, params: Any, request_id: str) -> AsyncGenerator[str, None]:
        for text in ("a", "b"):
            await asyncio.sleep(0)
            yield text


hook_class(Protocol, data_received="HttpToolsProtocol.data_received")
hook_class(Cycle, run_asgi="RequestResponseCycle.run_asgi", send="RequestResponseCycle.send")
hook_class(Engine, generate="AsyncLLM.generate")


async def stream(cycle: Cycle) -> None:
    await cycle.send({"type": "http.response.start"})
    async for text in Engine().generate("prompt", None, "cmpl-abc-0"):
        await cycle.send({"type": "http.response.body", "body": text.encode()})


async def answer_nothing(cycle: Cycle) -> None:
    await cycle.send({"type": "http.response.body", "body": b"ok"})


def serve(protocol: Protocol, app: Any = stream) -> None:
    protocol.data_received(b"head")
    protocol.data_received(b"body")
    asyncio.run(protocol.cycle.run_asgi(app))


def test_a_served_request_starts_with_its_first_byte_and_ends_with_its_answer(raw: Path) -> None:
    serve(Protocol([(b"x-request-id", b"abc")]))

    assert marked(raw) == [("request_start", "abc"), ("first_token", "abc"), ("request_end", "abc")]
    first_byte = named(raw, "HttpToolsProtocol.data_received")[0].start_ns
    assert named(raw, "request_start")[0].start_ns == first_byte
    assert len(named(raw, "send")) == 1


def test_a_request_without_an_id_of_its_own_gets_vllms(raw: Path) -> None:
    serve(Protocol([]))

    assert {request for _, request in marked(raw)} == {"abc"}


def test_two_requests_of_one_connection_start_with_their_own_first_bytes(raw: Path) -> None:
    protocol = Protocol([(b"x-request-id", b"abc")])
    serve(protocol)
    serve(protocol)

    starts = [row.start_ns for row in named(raw, "request_start")]
    received = [row.start_ns for row in named(raw, "HttpToolsProtocol.data_received")]
    assert starts == [received[0], received[2]]


def test_what_never_reaches_the_engine_is_no_request(raw: Path) -> None:
    serve(Protocol([(b"x-request-id", b"abc")]), answer_nothing)

    assert marked(raw) == []


def test_without_a_server_the_first_item_is_the_first_token(raw: Path) -> None:
    async def main() -> None:
        async for _ in Engine().generate("prompt", None, request_id="own"):
            pass

    asyncio.run(main())

    assert marked(raw) == [("request_start", "own"), ("first_token", "own"), ("request_end", "own")]


def test_an_offline_request_lasts_from_the_call_to_the_output(raw: Path) -> None:
    def output(finish_reason: str | None) -> Any:
        return SimpleNamespace(request_id="0-1a2b3c4d", finish_reason=finish_reason)

    def generate() -> None:
        add_request(None, "0")
        register(None, SimpleNamespace(request_id="0-1a2b3c4d"))
        process(None, [output(None)])
        process(None, [output(None)])
        process(None, [output("length")])

    add_request = wrap(lambda self, request_id: None, row("LLMEngine.add_request"))
    register = wrap(lambda self, request: None, row("OutputProcessor.add_request"))
    process = wrap(lambda self, engine_core_outputs: None, row("OutputProcessor.process_outputs"))
    wrap(generate, row("LLM.generate"))()

    assert marked(raw) == [("request_start", "vllm-0"), ("first_token", "vllm-0"), ("request_end", "vllm-0")]
    assert len(named(raw, "OutputProcessor.process_outputs")) == 2


class Scheduler:
    """A stand-in for the engine: adds requests of five prompt tokens, runs steps."""

    def __init__(self) -> None:
        self.requests: dict[str, Any] = {}

    def preprocess(self, request: Any) -> None:
        pass

    def add(self, request: Any) -> None:
        self.enqueue(request)

    def enqueue(self, request: Any) -> None:
        self.requests[request.request_id] = SimpleNamespace(num_prompt_tokens=5, num_computed_tokens=0)

    def schedule(self, *new: str, others: dict[str, int] | None = None) -> Any:
        scheduled = {**dict.fromkeys(new, 5), **(others or {})}
        for request_id, n_tokens in scheduled.items():
            self.requests[request_id].num_computed_tokens += n_tokens
        return SimpleNamespace(
            scheduled_new_reqs=[SimpleNamespace(req_id=request_id) for request_id in new],
            num_scheduled_tokens=scheduled,
            total_num_scheduled_tokens=8,
        )

    def update(self, scheduler_output: Any) -> Any:
        outputs = [
            SimpleNamespace(request_id=new.req_id, new_token_ids=[1], finish_reason=None)
            for new in scheduler_output.scheduled_new_reqs
        ]
        return {0: SimpleNamespace(outputs=outputs)}

    def step(self) -> None:
        pass

    def execute(self, scheduler_output: Any) -> None:
        pass

    def sample(self, grammar_output: Any) -> None:
        pass


hook_class(
    Scheduler,
    preprocess="EngineCore.preprocess_add_request",
    add="EngineCore.add_request",
    enqueue="Scheduler.add_request",
    schedule="Scheduler.schedule",
    update="Scheduler.update_from_output",
    step="EngineCore.step",
    execute="UniProcExecutor.execute_model",
    sample="UniProcExecutor.sample_tokens",
)


def test_a_request_is_queued_until_the_step_that_takes_it(raw: Path) -> None:
    scheduler, request = Scheduler(), SimpleNamespace(request_id=INNER)
    scheduler.preprocess(request)
    scheduler.add(request)
    scheduler.schedule()
    taken = scheduler.schedule(INNER)
    scheduler.update(taken)
    scheduler.schedule()

    (queued,) = named(raw, "scheduler queue")
    steps = named(raw, "Scheduler.schedule")
    assert (queued.stage, queued.request) == ("queue", "abc")
    assert queued.start_ns == named(raw, "Scheduler.add_request")[0].end_ns
    assert queued.end_ns == steps[1].start_ns
    assert [step.request for step in steps] == ["", "abc"]  # the third step is nobody's first


def test_a_step_says_how_much_of_it_was_the_requests_own(raw: Path) -> None:
    scheduler = Scheduler()
    scheduler.add(SimpleNamespace(request_id=INNER))
    scheduler.update(scheduler.schedule(INNER))

    (step,) = named(raw, "step")
    assert (step.request, step.count, step.detail) == ("abc", 5, 8)


def test_a_step_launched_before_the_token_of_the_last_one_is_a_next_step(raw: Path) -> None:
    scheduler = Scheduler()
    scheduler.add(SimpleNamespace(request_id=INNER))
    first = scheduler.schedule(INNER)
    scheduler.execute(first)
    scheduler.sample(None)
    scheduler.execute(scheduler.schedule(others={INNER: 1}))
    scheduler.sample(None)
    scheduler.update(first)
    scheduler.execute(scheduler.schedule(others={INNER: 1}))  # its token is there: nobody waits

    (step,) = named(raw, "step")
    assert (step.start_ns, step.count) == (named(raw, "Scheduler.schedule")[0].end_ns, 5)
    assert [row.stage for row in named(raw, "next step")] == ["return", "return"]
    assert named(raw, "next step")[0].start_ns >= named(raw, "UniProcExecutor.sample_tokens")[0].end_ns
    assert [named(raw, f"UniProcExecutor.{name}")[0].stage for name in ("execute_model", "sample_tokens")] == [
        "prepare",
        "sample",
    ]


def test_a_step_for_another_ones_prompt_is_no_next_step(raw: Path) -> None:
    scheduler, other = Scheduler(), "cmpl-def-0-1a2b3c4d"
    for request_id in (INNER, other):
        scheduler.add(SimpleNamespace(request_id=request_id))
    scheduler.execute(scheduler.schedule(INNER))
    scheduler.execute(scheduler.schedule(other, others={INNER: 1}))

    assert named(raw, "next step") == []
    assert len(named(raw, "UniProcExecutor.execute_model")) == 2


def test_the_second_part_of_a_long_prompt_is_no_next_step(raw: Path) -> None:
    scheduler = Scheduler()
    scheduler.add(SimpleNamespace(request_id=INNER))
    scheduler.execute(scheduler.schedule(others={INNER: 3}))
    scheduler.execute(scheduler.schedule(others={INNER: 2}))

    assert named(raw, "next step") == []


def test_a_request_that_came_during_a_step_waited_for_its_end(raw: Path) -> None:
    scheduler, request = Scheduler(), SimpleNamespace(request_id=INNER)
    scheduler.preprocess(request)
    scheduler.step()
    scheduler.add(request)

    (waited,) = named(raw, "input queue")
    assert waited.start_ns == named(raw, "EngineCore.preprocess_add_request")[0].end_ns


def test_a_request_that_found_the_engine_idle_waited_for_no_step(raw: Path) -> None:
    scheduler, request = Scheduler(), SimpleNamespace(request_id=INNER)
    scheduler.step()
    scheduler.preprocess(request)
    scheduler.add(request)

    assert named(raw, "input queue") == []


def test_outputs_are_recorded_on_their_way_back_only_with_a_first_token(raw: Path) -> None:
    encode = wrap(lambda self, message: None, row("MsgpackEncoder.encode"))
    outputs = SimpleNamespace(outputs=[SimpleNamespace(request_id=INNER)])
    core._leaving.add(INNER)
    encode(None, outputs)
    encode(None, outputs)

    (sent,) = named(raw, "encode outputs")
    assert (sent.stage, sent.request) == ("return", "abc")


def test_both_ends_of_a_queue_name_the_same_memory(raw: Path) -> None:
    queue = SimpleNamespace(buffer=SimpleNamespace(shared_memory=SimpleNamespace(name="psm_1")))
    call = ("execute_model", (), {}, 0)
    wrap(lambda self, obj: None, row("MessageQueue.enqueue"))(queue, call)
    wrap(lambda self: call, row("MessageQueue.dequeue"))(queue)

    assert [(named(raw, name)[0].stage) for name in (RANGE_SEND, RANGE_RECEIVE)] == ["dispatch", "dispatch"]
    assert messages._segment(((queue,), {})) == "/dev/shm/psm_1"


def test_an_engine_says_itself_when_it_is_ready(raw: Path) -> None:
    def create() -> None:
        wrap(lambda: None, next(hook for hook in load_table("hf") if hook.leave is loading.leave_loading))()

    wrap(create, row("EngineArgs.create_engine_config"))()
    assert marked(raw) == []

    asyncio.run(wrap(startup, row("Server.startup"))())
    assert marked(raw) == [("ready", "")]


async def startup() -> None:
    pass


def test_vllms_own_spans_become_ranges_of_their_stage(raw: Path) -> None:
    module = SimpleNamespace(instrument=lambda obj, **options: obj)
    seams._replace_instrument(module, "instrument")

    @module.instrument(span_name="Allocate KV cache")  # type: ignore[untyped-decorator]
    def allocate() -> int:
        return 7

    assert allocate() == 7
    assert named(raw, "Allocate KV cache")[0].stage == "kv_cache"


def test_profiler_scopes_that_the_user_asked_for_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(_PROFILER_FUNC=None)
    monkeypatch.setenv("VLLM_NVTX_SCOPES_FOR_PROFILING", "1")

    seams._replace_scopes(module, "_PROFILER_FUNC")

    assert module._PROFILER_FUNC is None


def test_every_stage_of_a_request_has_a_row() -> None:
    stages = {hook.stage for hook in load_table("vllm")} | {hook.later_stage for hook in load_table("vllm")}

    assert {
        "receive", "tokenize", "submit", "queue", "schedule", "dispatch", "prepare", "prefill", "sample", "return",
        "detokenize", "deliver",
    } <= stages  # fmt: skip
    assert ids.from_inner(INNER) == "abc"
