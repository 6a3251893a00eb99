"""Follow a generate() call of transformers to its first token.

The decoding loop of every version asks `_has_unfinished_sequences` before each step, so its second call comes right
after the first token. Where a streamer takes the tokens, the token is out when the streamer's put returns.
"""

from __future__ import annotations

from .. import constants as c
from .. import marks
from ..wrap import FAILED, is_wrapped, patch, thread_usage, write_range
from . import prompts
from .base import Hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..wrap import Call

_PREFILL = "prefill|forward"


def enter_generate(call: Call, start_ns: int) -> None:
    """Start a request, unless this generate call is part of another one, as an assistant's is."""
    state = marks.current()
    if state.request is not None:
        state.request.nested_calls += 1
        return
    request = marks.Request(marks.next_request_id("hf"))
    marks.mark(c.MARK_REQUEST_START, request.id, prompts.take() or start_ns)
    state.pending.clear()
    state.request = request
    request.is_streamed = _watch_streamer(call)


def leave_generate(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """End the request, however generate ended."""
    state = marks.current()
    request = state.request
    if request is None:
        return
    if request.nested_calls:
        request.nested_calls -= 1
        return
    state.request = None
    marks.mark(c.MARK_REQUEST_END, request.id, end_ns)


def enter_loop_check(call: Call, start_ns: int) -> None:
    """Count the steps of the decoding loop. A streamer that has seen nothing after two steps is not told the tokens."""
    request = _own_request()
    if request is None:
        return
    request.loop_checks += 1
    if request.loop_checks == 1:
        marks.current().pending[_PREFILL] = (start_ns, thread_usage())
    elif request.loop_checks == (3 if request.is_streamed else 2):
        _first_token(request, start_ns)


def leave_stop_check(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The first stop check has waited for the device: the first token is ready."""
    request = _own_request()
    if request is not None and not request.is_streamed and result is not FAILED:
        _first_token(request, end_ns)


def enter_put(call: Call, start_ns: int) -> None:
    """Count puts inside puts: a streamer's put may call its base class's."""
    request = _own_request()
    if request is not None:
        request.put_depth += 1


def leave_put(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The first outermost put after the loop began has delivered the first token; those before it held the prompt."""
    request = _own_request()
    if request is None:
        return
    request.put_depth -= 1
    if request.put_depth == 0 and request.loop_checks and result is not FAILED:
        _first_token(request, end_ns)


def begin_forward(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """Where there is no _prefill: the first forward pass starts when its inputs are ready."""
    state = marks.current()
    if state.request is not None and _PREFILL in state.pending:
        state.pending[_PREFILL] = (end_ns, thread_usage())


def end_forward(call: Call, start_ns: int) -> None:
    """Where there is no _prefill: the first forward pass is over when its outputs are taken in."""
    begun = marks.current().pending.pop(_PREFILL, None)
    if begun is not None:
        write_range(_PREFILL, begun[0], start_ns, begun[1])


PUT = Hook(
    "transformers.generation.streamers",
    "TextStreamer.put",
    stage="deliver",
    label="streamer.put",
    gated=True,
    enter=enter_put,
    leave=leave_put,
)


def _own_request() -> marks.Request | None:
    """Return the request of the outermost generate call, if this thread is directly in it and before its token."""
    request = marks.current().request
    if request is None or request.nested_calls or request.is_delivered:
        return None
    return request


def _first_token(request: marks.Request, at_ns: int) -> None:
    if not request.is_delivered:
        request.is_delivered = True
        marks.mark(c.MARK_FIRST_TOKEN, request.id, at_ns)


def _watch_streamer(call: Call) -> bool:
    """Wrap the put method of the streamer's class; say whether there is one that will be seen."""
    arguments, keywords = call
    streamer = keywords.get("streamer")
    if streamer is None:
        streamer = next((value for value in arguments[1:] if hasattr(value, "put") and hasattr(value, "end")), None)
    owner = next((cls for cls in type(streamer).__mro__ if "put" in vars(cls)), None)
    if owner is None or "put" in getattr(streamer, "__dict__", ()):
        return False
    patch(owner, "put", PUT)
    return is_wrapped(vars(owner)["put"])
