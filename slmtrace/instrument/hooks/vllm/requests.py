"""What vLLM's front end knows of its requests, and the marks that windows are made of.

A request starts when its first byte is read, and its first token is out when the first body bytes are written. Without
a server, it starts with the call of the API and its first token is out when the API has it.
"""

from __future__ import annotations

from _contextvars import ContextVar

from ... import constants as c
from ... import marks
from ...wrap import FAILED, write_range
from . import ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...wrap import Call


class _Request:
    """A request as the front end sees it."""

    def __init__(self, start_ns: int) -> None:
        self.id = ""
        self.start_ns = start_ns
        self.is_http = False
        self.is_offline = False
        self.is_taken = False  # a handler runs for it
        self.is_started = False  # it went to the engine
        self.is_delivered = False


_current: ContextVar[_Request | None] = ContextVar("slmtrace_request", default=None)
_awaited: set[str] = set()  # inner ids of the requests that the engine has and whose first token is not out of it
_offline: dict[str, _Request] = {}  # requests without a server and without a stream, by inner id
_offline_start_ns = 0  # of the call that makes requests now


def is_awaiting(call: Call) -> bool:
    """Say whether a first token is awaited from the engine."""
    return bool(_awaited)


def awaits_any(request_ids: list[str]) -> bool:
    """Say whether the first token of one of these requests (inner ids) is awaited."""
    return any(request_id in _awaited for request_id in request_ids)


def is_before_first_token(call: Call) -> bool:
    """Say whether the present request's first token is not out yet."""
    request = _current.get()
    return request is None or not request.is_delivered


def current_id(call: Call, result: Any) -> str:
    """Return the present request's id."""
    request = _current.get()
    return request.id if request is not None else ""


def enter_data(call: Call, start_ns: int) -> None:
    """The first bytes after an answered request belong to the next one; what follows is more of the same."""
    protocol = call[0][0]
    pending = getattr(protocol, "slmtrace_request", None)
    cycle = getattr(protocol, "cycle", None)
    if pending is None or (pending.is_taken and (cycle is None or cycle.response_complete)):
        protocol.slmtrace_request = _Request(start_ns)


def enter_asgi(call: Call, start_ns: int) -> None:
    """A handler starts: what runs in its context is about this request."""
    cycle = call[0][0]
    request = getattr(cycle.transport.get_protocol(), "slmtrace_request", None)
    if request is None or request.is_taken:
        request = _Request(start_ns)
    request.is_taken = request.is_http = True
    for name, value in cycle.scope["headers"]:
        if name == b"x-request-id":
            request.id = value.decode("latin-1")
    _current.set(request)


def leave_asgi(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The request is answered."""
    request = _current.get()
    if request is not None and request.is_started:
        marks.mark(c.MARK_REQUEST_END, request.id, end_ns)


def leave_send(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The first body bytes are the first token; the headers went out long before."""
    request = _current.get()
    if request is None or request.is_delivered or not request.is_started or not call[0][1].get("body"):
        return
    request.is_delivered = True
    write_range("deliver|send", start_ns, end_ns, request=request.id)
    marks.mark(c.MARK_FIRST_TOKEN, request.id, end_ns)


def _start(outer_id: str, start_ns: int) -> _Request:
    """Note that a request goes to the engine."""
    request = _current.get()
    if request is None or (request.is_delivered and not request.is_http):
        request = _Request(_offline_start_ns or start_ns)
        _current.set(request)
    if not request.is_started:
        request.is_started = True
        request.id = request.id or ids.from_outer(outer_id)
        marks.mark(c.MARK_REQUEST_START, request.id, request.start_ns)
    return request


def argument(call: Call, position: int, name: str) -> Any:
    """Return an argument of a call, however it was given."""
    arguments, keywords = call
    return arguments[position] if len(arguments) > position else keywords[name]


def enter_generate(call: Call, start_ns: int) -> None:
    """A request goes to the engine; without a server it starts here."""
    _start(str(argument(call, 3, "request_id")), start_ns)


def on_item(call: Call, value: Any, at_ns: int) -> None:
    """Without a server, the first item that the API yields is the first token."""
    request = _current.get()
    if request is not None and not request.is_http and not request.is_delivered:
        request.is_delivered = True
        marks.mark(c.MARK_FIRST_TOKEN, request.id, at_ns)


def leave_generate(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """Without a server, the request ends with its stream."""
    request = _current.get()
    if request is not None and not request.is_http:
        marks.mark(c.MARK_REQUEST_END, request.id, end_ns)
        _current.set(None)


def enter_offline(call: Call, start_ns: int) -> None:
    """An offline call starts all the requests that it will make."""
    global _offline_start_ns
    _offline_start_ns = start_ns


def leave_offline(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The offline call is over."""
    global _offline_start_ns
    _offline_start_ns = 0


def enter_offline_request(call: Call, start_ns: int) -> None:
    """The offline engine takes one request."""
    _current.set(None)
    _start(str(argument(call, 1, "request_id")), start_ns).is_offline = True


def leave_register(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The engine's answers to this request are expected from now on."""
    inner_id = str(argument(call, 1, "request").request_id)
    request = _current.get()
    _awaited.add(inner_id)
    if request is not None and request.is_offline:
        _offline[inner_id] = request


def admit_outputs(call: Call) -> bool:
    """Say whether a first token is among the engine's outputs, or the last one of an offline request."""
    outputs = argument(call, 1, "engine_core_outputs")
    return any(
        output.request_id in _awaited or (output.finish_reason is not None and output.request_id in _offline)
        for output in outputs
    )


def outputs_request(call: Call, result: Any) -> str:
    """Return the request that the engine's outputs are about, if it is one."""
    return ids.only([output.request_id for output in argument(call, 1, "engine_core_outputs")])


def leave_outputs(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """First tokens have come back; an offline caller has them now."""
    for output in argument(call, 1, "engine_core_outputs"):
        _awaited.discard(output.request_id)
        request = _offline.get(output.request_id)
        if request is None:
            continue
        if not request.is_delivered:
            request.is_delivered = True
            marks.mark(c.MARK_FIRST_TOKEN, request.id, end_ns)
        if output.finish_reason is not None:
            marks.mark(c.MARK_REQUEST_END, request.id, end_ns)
            del _offline[output.request_id]


def leave_abort(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """Requests were aborted: only those that the processor of outputs still has are awaited."""
    known = call[0][0].request_states
    _awaited.intersection_update(known)
    for inner_id in set(_offline).difference(known):
        del _offline[inner_id]


def leave_startup(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The server answers from now on, or the offline engine is there."""
    if result is not FAILED:
        marks.mark(c.MARK_READY, at_ns=end_ns)
