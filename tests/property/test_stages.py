"""A request's stages among other requests that share its threads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.attribute.attribution import attribute
from slmtrace.capture.layout import STEP
from slmtrace.model.events import NO_STAGE, EventKind
from slmtrace.model.report import WindowReport
from slmtrace.model.taxonomy import Cause, Phase, Stage, WindowKind
from slmtrace.model.trace import Window
from slmtrace.model.tracks import TrackKind

from ..support.builders import TraceBuilder

END_NS = 1_000
OTHERS_STAGES = [Stage.RECEIVE, Stage.TOKENIZE, Stage.SUBMIT, Stage.DETOKENIZE, Stage.DELIVER]


def explained(builder: TraceBuilder) -> WindowReport:
    return attribute(builder.build(), [Window(WindowKind.TTFT, 0, 0, END_NS, 0, "a")])[0]


def stages_of(report: WindowReport) -> dict[Stage, int]:
    return {share.stage: share.ns for share in report.stages}


def served(*calls: tuple[int, int, Stage, str]) -> TraceBuilder:
    """Make a thread that runs all the time, and calls (start, end, stage, request) on it."""
    builder = TraceBuilder()
    loop = builder.thread(1, 1)
    builder.run(loop, 0, END_NS)
    for start_ns, end_ns, stage, request in calls:
        builder.event(EventKind.RANGE, loop, start_ns, end_ns - start_ns, "call", stage=stage, request=request)
    return builder


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(OTHERS_STAGES))
def test_what_a_thread_did_for_another_request_is_no_stage_of_this_one(
    start_ns: int, dur_ns: int, stage: Stage
) -> None:
    own = [(800, 900, Stage.RECEIVE, "a"), (900, END_NS, Stage.DELIVER, "a")]

    report = explained(served((start_ns, start_ns + dur_ns, stage, "b"), *own))

    assert stages_of(report) == {Stage.RECEIVE: 900, Stage.DELIVER: 100}
    assert sum(report.phases.values()) == END_NS


def test_what_was_done_for_another_request_keeps_its_cause() -> None:
    own = [(500, 600, Stage.RECEIVE, "a"), (600, END_NS, Stage.DELIVER, "a")]

    report = explained(served((0, 500, Stage.DETOKENIZE, "b"), *own))

    assert {share.cause: share.ns for share in report.causes}[Cause.DETOKENIZE] == 500


def test_the_engines_steps_are_for_all_that_are_in_them() -> None:
    report = explained(served((0, 900, Stage.PREFILL, "b"), (900, END_NS, Stage.DELIVER, "a")))

    assert stages_of(report) == {Stage.PREFILL: 900, Stage.DELIVER: 100}


def test_before_its_first_step_a_request_cannot_be_on_its_way_back() -> None:
    # The outputs of several other requests come back: nothing says whose they are.
    builder = served((0, 200, Stage.RETURN, ""), (200, 300, Stage.RECEIVE, "a"), (400, END_NS, Stage.RETURN, ""))
    builder.event(EventKind.ASYNC, builder.tracks.other(TrackKind.REQUESTS, 1, 0), 300, 100, STEP, request="a")

    report = explained(builder)

    assert stages_of(report) == {Stage.RECEIVE: 300, Stage.RETURN: 700}


def test_a_thread_without_stages_delivers_only_once_the_engine_has_begun() -> None:
    builder = TraceBuilder()
    client = builder.thread(1, 1)
    builder.run(client, 0, END_NS)
    builder.event(EventKind.ASYNC, builder.tracks.other(TrackKind.REQUESTS, 1, 0), 300, 100, STEP, request="a")
    builder.event(EventKind.SYSCALL, client, 300, 10, "recvfrom")

    report = explained(builder)

    assert stages_of(report) == {Stage.RECEIVE: 300, Stage.DELIVER: 700}


def test_a_request_is_tokenized_as_long_as_its_tokens_are_awaited() -> None:
    builder = served((0, 100, Stage.RECEIVE, "a"), (100, 110, Stage.TOKENIZE, "a"), (300, END_NS, Stage.SUBMIT, "a"))
    requests = builder.tracks.other(TrackKind.REQUESTS, 1, 0)
    builder.event(EventKind.ASYNC, requests, 100, 250, "render", stage=Stage.TOKENIZE, request="a")

    report = explained(builder)

    assert stages_of(report) == {Stage.RECEIVE: 100, Stage.TOKENIZE: 250, Stage.SUBMIT: 650}
    assert report.phases[Phase.UNATTRIBUTED] == 0


def test_a_tokenizer_busy_with_other_prompts_did_not_hold_up_the_requests_arrival() -> None:
    builder = TraceBuilder()
    loop, tokenizer = builder.thread(1, 1), builder.thread(2, 1)
    builder.run(loop, 0, 110)
    builder.run(tokenizer, 0, 650)
    builder.wake(loop, 650, by=tokenizer)
    builder.run(loop, 650, END_NS)
    builder.event(EventKind.RANGE, tokenizer, 0, 650, "tokenizer", stage=Stage.TOKENIZE)
    requests = builder.tracks.other(TrackKind.REQUESTS, 1, 0)
    builder.event(EventKind.ASYNC, requests, 100, 600, "render", stage=Stage.TOKENIZE, request="a")
    for start_ns, end_ns, stage in ((0, 100, Stage.RECEIVE), (101, 109, Stage.TOKENIZE), (700, END_NS, Stage.SUBMIT)):
        builder.event(EventKind.RANGE, loop, start_ns, end_ns - start_ns, "call", stage=stage, request="a")

    report = attribute(builder.build(), [Window(WindowKind.TTFT, 0, 0, END_NS, loop, "a")])[0]

    assert stages_of(report) == {Stage.RECEIVE: 100, Stage.TOKENIZE: 600, Stage.SUBMIT: 300}


def loaded(*ranges: tuple[int, int, Stage, str]) -> WindowReport:
    """Explain a load whose one thread runs all the time, inside these ranges (start, end, stage, label)."""
    builder = TraceBuilder()
    main = builder.thread(1, 1)
    builder.run(main, 0, END_NS)
    for start_ns, end_ns, stage, label in ranges:
        builder.event(EventKind.RANGE, main, start_ns, end_ns - start_ns, label, stage=stage)
    return attribute(builder.build(), [Window(WindowKind.LOAD, 0, 0, END_NS, main)])[0]


def test_an_engine_that_tries_itself_out_while_loading_is_warming_up() -> None:
    report = loaded((100, 900, Stage.WARMUP, "warmup_kernels"), (200, 700, Stage.SAMPLE, "sample_tokens"))

    assert stages_of(report) == {Stage.PROCESS_START: 200, Stage.WARMUP: 800}


@pytest.mark.parametrize("label", ["triton compile", "triton launcher build"])
def test_compiling_a_triton_kernel_is_that_in_whatever_stage_it_happens(label: str) -> None:
    report = loaded((100, 900, Stage.WARMUP, "warmup_kernels"), (200, 700, NO_STAGE, label))

    assert {share.cause: share.ns for share in report.causes}[Cause.JIT_COMPILE] == 500


def test_an_engines_next_step_is_its_schedule_with_what_it_launches_and_without_what_it_stumbles_over() -> None:
    builder = TraceBuilder()
    main = builder.thread(1, 1)
    builder.run(main, 0, END_NS)
    builder.event(EventKind.RANGE, main, 0, 300, "Worker.execute_model", stage=Stage.PREPARE)
    builder.event(EventKind.CUDA_API, main, 100, 100, "cudaGraphLaunch")
    builder.event(EventKind.RANGE, main, 300, 500, "next step", stage=Stage.RETURN)
    builder.event(EventKind.CUDA_API, main, 400, 100, "cudaGraphLaunch")
    builder.event(EventKind.FAULT, main, 600, 50)

    report = attribute(builder.build(), [Window(WindowKind.TTFT, 0, 0, END_NS, main)])[0]

    causes = {share.cause: share.ns for share in report.causes}
    assert (causes[Cause.ENGINE_SCHEDULE], causes[Cause.LAUNCH], causes[Cause.ANON_FAULT]) == (450, 100, 50)


def wait_for_child(builder: TraceBuilder, main: int, child: int) -> None:
    """Let a thread start another one at 300 ns, and wait for it until 700 ns."""
    builder.run(main, 0, 300)
    builder.run(child, 300, 700)
    builder.run(main, 700, END_NS)
    builder.wake(main, 700, by=child)
    builder.fork(child, 300, by=main)


def test_a_compiler_that_a_triton_compilation_started_is_part_of_it() -> None:
    builder = TraceBuilder()
    main, assembler = builder.thread(1, 1), builder.thread(2, 2)
    builder.event(EventKind.RANGE, main, 0, END_NS, "warmup_kernels", stage=Stage.WARMUP)
    builder.event(EventKind.RANGE, main, 100, 800, "triton compile", stage=NO_STAGE)
    wait_for_child(builder, main, assembler)

    report = attribute(builder.build(), [Window(WindowKind.LOAD, 0, 0, END_NS, main)])[0]

    assert {share.cause: share.ns for share in report.causes}[Cause.JIT_COMPILE] == 800


@pytest.mark.parametrize(
    ("program", "stage", "cause"),
    [
        ("cc1plus", Stage.PREFILL, Cause.JIT_COMPILE),
        ("cc1plus", Stage.COMPILE, Cause.TORCH_COMPILE),  # as torch.compile has it
        ("sh", Stage.PREFILL, Cause.CPU_KERNEL),
    ],
)
def test_what_a_compiler_runs_is_compilation_whoever_started_it(program: str, stage: Stage, cause: Cause) -> None:
    builder = TraceBuilder()
    main, child = builder.thread(1, 1), builder.thread(2, 2, process=program)
    builder.event(EventKind.RANGE, main, 0, END_NS, "forward", stage=stage)
    wait_for_child(builder, main, child)

    report = attribute(builder.build(), [Window(WindowKind.TTFT, 0, 0, END_NS, main)])[0]

    assert {share.cause: share.ns for share in report.causes}[cause] >= 400
