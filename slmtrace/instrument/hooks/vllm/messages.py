"""Messages between vLLM's processes: serialised over ZeroMQ sockets, pickled through shared memory."""

from __future__ import annotations

from ... import cuda
from ...wrap import FAILED, write_range
from ..base import Hook
from . import core, ids, requests, worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...wrap import Call

_SERIAL = "vllm.v1.serial_utils"
_QUEUE = "vllm.distributed.device_communicators.shm_broadcast"
# Remote calls of the executor that are a step's; all others belong to loading or to administration.
_STEP_CALLS = ("execute_model", "sample_tokens")


def _leave_encode(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """A request on its way to the engine, or outputs on their way back."""
    message = call[0][1]
    outputs = getattr(message, "outputs", None)
    if outputs is not None:
        found = [output.request_id for output in outputs]
        if core.take_leaving(found):
            # The front end may have the engine killed as soon as it has these outputs.
            cuda.flush()
            write_range("return|encode outputs", start_ns, end_ns, request=ids.only(found))
    elif hasattr(message, "request_id"):
        write_range("submit|encode request", start_ns, end_ns, request=ids.from_inner(message.request_id))


def _leave_decode(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    outputs = getattr(result, "outputs", None)
    if outputs is not None:
        found = [output.request_id for output in outputs]
        if requests.awaits_any(found):
            write_range("return|decode outputs", start_ns, end_ns, request=ids.only(found))
    elif hasattr(result, "request_id"):
        write_range("submit|decode request", start_ns, end_ns, request=ids.from_inner(result.request_id))


def _leave_enqueue(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    stage = _stage_of_call(call[0][1] if len(call[0]) > 1 else call[1].get("obj"))
    write_range(f"{stage}|enqueue", start_ns, end_ns, file=_segment(call))


def _leave_dequeue(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    if result is not FAILED:
        write_range(f"{_stage_of_call(result)}|dequeue", start_ns, end_ns, file=_segment(call))


def _stage_of_call(message: Any) -> str:
    """Return the stage of a message: (method, args, kwargs, rank) goes to the worker, (status, result) comes back."""
    if isinstance(message, tuple) and len(message) == 4:
        return "dispatch" if message[0] in _STEP_CALLS else ""
    return "return" if core.is_awaiting(((), {})) or worker.is_recorded(((), {})) else ""


def _segment(call: Call) -> str:
    """Return the shared memory that a queue lives in, as a path: it tells which queue of two processes is the same."""
    buffer = getattr(call[0][0], "buffer", None)
    return "/dev/shm/" + buffer.shared_memory.name.lstrip("/") if buffer is not None else ""


HOOKS = [
    Hook(_SERIAL, "MsgpackEncoder.encode", silent=True, leave=_leave_encode),
    Hook(_SERIAL, "MsgpackEncoder.encode_into", silent=True, leave=_leave_encode),
    Hook(_SERIAL, "MsgpackDecoder.decode", silent=True, leave=_leave_decode),
    Hook(_QUEUE, "MessageQueue.enqueue", silent=True, leave=_leave_enqueue),
    Hook(_QUEUE, "MessageQueue.dequeue", silent=True, leave=_leave_dequeue),
]
