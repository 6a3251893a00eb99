"""Instants that the analysis derives windows from, and what this thread is doing: loading, tokenizing, generating."""

from __future__ import annotations

import itertools
import os
from time import monotonic_ns

from . import constants as c
from . import environment
from .recorder import recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_WINDOW_ENDS = (c.MARK_READY, c.MARK_FIRST_TOKEN, c.MARK_REQUEST_END)

_next_request = itertools.count().__next__
_process_prefix: tuple[int, str] = (0, "")


class Request:
    """A request that this thread works on."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.is_delivered = False  # its first token is out: the window is over, record no more of it
        self.nested_calls = 0  # generate calls inside its generate call
        self.loop_checks = 0  # how often the decoding loop asked whether to go on
        self.is_streamed = False  # the streamer's put will say when the first token is out
        self.put_depth = 0


class ThreadState:
    """What one thread is doing."""

    def __init__(self) -> None:
        self.request: Request | None = None
        self.loading_depth = 0
        self.tokenize_depth = 0
        self.has_tokenized = False
        self.is_templated = False  # the pending prompt went through a chat template, not yet through the tokenizer
        self.prompt_start_ns = 0  # when the prompt that no request has taken yet started to be tokenized
        self.pending: dict[str, Any] = {}  # milestones of ranges that two different calls delimit


def current() -> ThreadState:
    """Return the state of this thread."""
    try:
        state: ThreadState = recorder.local.state
    except AttributeError:
        state = recorder.local.state = ThreadState()
    return state


def is_past_first_token() -> bool:
    """Say whether this thread works on a request whose first token is out."""
    request = current().request
    return request is not None and request.is_delivered


def mark(name: str, request: str = "", at_ns: int = 0) -> None:
    """Write an instant: now, or at `at_ns`, which may lie in the past."""
    at_ns = at_ns or monotonic_ns()
    recorder.write(c.MARK, recorder.intern(name), at_ns, at_ns, recorder.intern(request))
    if name in _WINDOW_ENDS and os.environ.get(environment.CUDA):
        from . import cuda

        cuda.flush()


def next_request_id(engine: str) -> str:
    """Return "hf-0", "hf-1", ... in the process that was started, "hf-<pid>-0", ... in those that it starts."""
    return engine + "-" + _prefix() + str(_next_request())


def _prefix() -> str:
    """Return '' in the process that was started, else its pid: request ids link processes, so they must not collide.

    Only the process that was started has a parent that is not itself told to record.
    """
    global _process_prefix
    pid = os.getpid()
    if _process_prefix[0] != pid:
        try:
            with open(f"/proc/{os.getppid()}/environ", "rb") as file:
                is_first = b"\0" + environment.RAW.encode() + b"=" not in b"\0" + file.read()
        except OSError:
            is_first = False
        _process_prefix = (pid, "" if is_first else f"{pid}-")
    return _process_prefix[1]
