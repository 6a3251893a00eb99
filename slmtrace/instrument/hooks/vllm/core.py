"""vLLM's engine core: a request waits, is scheduled into a step, the step runs, its first token goes back.

Steps are recorded only while a request waits for its first token: decoding goes on for hours.
"""

from __future__ import annotations

from ... import constants as c
from ...recorder import recorder
from ...wrap import write_range
from ..base import Hook
from . import ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...wrap import Call

_CORE = "vllm.v1.engine.core"
_SCHEDULER = "vllm.v1.core.sched.scheduler"
_MULTIPROC = "vllm.v1.executor.multiproc_executor"
_UNIPROC = "vllm.v1.executor.uniproc_executor"

# All by the engine's own request ids.
_preprocessed_ns: dict[str, int] = {}  # when a request was put into the input queue
_queued_ns: dict[str, int] = {}  # when the scheduler took it into its queue
_scheduled: dict[str, tuple[int, int, int]] = {}  # the step for its prompt: start, own tokens, all tokens
_is_next_step = False  # the step that was scheduled last computes nothing that a request waits for
_awaited: set[str] = set()  # its first token is not there yet
_leaving: set[str] = set()  # its first token is there and not sent yet
_last_step_end_ns = 0


def is_awaiting(call: Call) -> bool:
    """Say whether a request waits for its first token."""
    return bool(_awaited)


def take_leaving(request_ids: list[str]) -> bool:
    """Say whether one of these requests sends its first token now."""
    found = _leaving.intersection(request_ids)
    _leaving.difference_update(found)
    return bool(found)


def step_of(call: Call) -> Any:
    """Return the SchedulerOutput that a method is called with."""
    arguments, keywords = call
    return arguments[1] if len(arguments) > 1 else keywords["scheduler_output"]


def new_request(step: Any) -> str:
    """Return the one request whose first step this is, '' if there are more or none."""
    return ids.only([new.req_id for new in step.scheduled_new_reqs])


def _request_argument(call: Call) -> Any:
    arguments, keywords = call
    return arguments[1] if len(arguments) > 1 else keywords["request"]


def _request_id(call: Call, result: Any) -> str:
    return ids.from_inner(_request_argument(call).request_id)


def _leave_preprocess(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    _preprocessed_ns[_request_argument(call).request_id] = end_ns


def _enter_add(call: Call, start_ns: int) -> None:
    """The engine takes a request from its input queue. It waited there for the end of the step that ran meanwhile."""
    request_id = _request_argument(call).request_id
    put_ns = _preprocessed_ns.pop(request_id, start_ns)
    _write_queue("input queue", request_id, put_ns, min(_last_step_end_ns, start_ns))


def _leave_enqueue(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    request_id = _request_argument(call).request_id
    _queued_ns[request_id] = end_ns
    _awaited.add(request_id)


def _leave_schedule(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The wait of the requests that this step is the first for has ended with the step's begin."""
    global _is_next_step
    for new in result.scheduled_new_reqs:
        queued_ns = _queued_ns.pop(new.req_id, 0)
        if queued_ns:
            _write_queue("scheduler queue", new.req_id, queued_ns, start_ns)
    needed = {
        request_id: own
        for request_id, own in result.num_scheduled_tokens.items()
        if request_id in _awaited and not _is_prompt_done(call[0][0], request_id, own)
    }
    _is_next_step = not needed
    for request_id, own in needed.items():
        _scheduled[request_id] = (end_ns, own, result.total_num_scheduled_tokens)


def _is_prompt_done(scheduler: Any, request_id: str, own: int) -> bool:
    """Say whether earlier steps, which may still run, compute all of a request's prompt; this one has so many tokens.

    With asynchronous scheduling a request's second step is scheduled before the token of its first one is there.
    """
    request = scheduler.requests[request_id]
    return bool(request.num_computed_tokens - own >= request.num_prompt_tokens)


def _leave_update(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The step's tokens are there."""
    for outputs in result.values():
        for output in outputs.outputs:
            if output.request_id in _awaited and (output.new_token_ids or output.finish_reason is not None):
                _awaited.discard(output.request_id)
                _leaving.add(output.request_id)
    for request_id in list(_scheduled):
        step_ns, own, total = _scheduled.pop(request_id)
        # What the step did for this request: its tokens among all that were computed.
        name = recorder.intern(f"|{c.STEP}")
        recorder.write(c.ASYNC, name, step_ns, start_ns, recorder.intern(ids.from_inner(request_id)), own, total)


def _leave_step(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    global _last_step_end_ns
    _last_step_end_ns = end_ns


def _leave_finish(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """Requests were aborted."""
    aborted = call[0][1]
    for request_id in [aborted] if isinstance(aborted, str) else aborted or list(_awaited):
        _awaited.discard(request_id)
        _queued_ns.pop(request_id, None)


def _write_queue(label: str, request_id: str, start_ns: int, end_ns: int) -> None:
    if end_ns > start_ns:
        name = recorder.intern(f"queue|{label}")
        recorder.write(c.ASYNC, name, start_ns, end_ns, recorder.intern(ids.from_inner(request_id)))


def _step_request(call: Call, result: Any) -> str:
    return new_request(step_of(call))


def _in_process(method: str, stage: str) -> Hook:
    """The host's side of a step, in the engine core's own thread; a next step keeps the awaited token from leaving."""
    name = f"UniProcExecutor.{method}"

    def leave(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
        write_range("return|next step" if _is_next_step else f"{stage}|{name}", start_ns, end_ns)

    return Hook(_UNIPROC, name, silent=True, admit=is_awaiting, leave=leave)


def _dispatch(module: str, attribute: str, stage: str = "dispatch", **options: Any) -> Hook:
    return Hook(module, attribute, stage=stage, admit=is_awaiting, **options)


HOOKS = [
    Hook(_CORE, "EngineCore.preprocess_add_request", stage="submit", request=_request_id, leave=_leave_preprocess),
    Hook(_CORE, "EngineCore.add_request", stage="queue", request=_request_id, enter=_enter_add),
    Hook(_SCHEDULER, "Scheduler.add_request", stage="queue", request=_request_id, leave=_leave_enqueue),
    Hook(
        _SCHEDULER,
        "Scheduler.schedule",
        stage="schedule",
        admit=is_awaiting,
        request=lambda call, result: new_request(result),
        leave=_leave_schedule,
    ),
    Hook(
        _SCHEDULER,
        "Scheduler.update_from_output",
        stage="return",
        admit=is_awaiting,
        request=_step_request,
        leave=_leave_update,
    ),
    Hook(_SCHEDULER, "Scheduler.finish_requests", silent=True, leave=_leave_finish),
    Hook(_CORE, "EngineCore.step", silent=True, leave=_leave_step),
    Hook(_CORE, "EngineCore.step_with_batch_queue", silent=True, leave=_leave_step),
    Hook(_CORE, "EngineCoreProc._send_msg_tracking_payload", stage="return", optional=True, admit=is_awaiting),
    _dispatch(_MULTIPROC, "MultiprocExecutor.execute_model", request=_step_request),
    _dispatch(_MULTIPROC, "MultiprocExecutor.sample_tokens"),
    _dispatch(_MULTIPROC, "FutureWrapper.result", "return"),
    _in_process("execute_model", "prepare"),
    _in_process("sample_tokens", "sample"),
    _dispatch(_UNIPROC, "AsyncOutputFuture.result", "return", optional=True),
]
