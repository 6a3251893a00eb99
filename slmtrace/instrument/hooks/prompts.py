"""When the prompt of the next request started to be tokenized: a request starts with its text, not with its tokens."""

from __future__ import annotations

from .. import marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..wrap import Call

# The start of the last prompt of any thread that no request has taken: generate often runs in a thread of its own.
_last_start_ns = 0


def enter_tokenize(call: Call, start_ns: int) -> None:
    """Note the start of an outermost tokenizer call; one after a chat template belongs to the template's prompt."""
    state = marks.current()
    state.tokenize_depth += 1
    if state.tokenize_depth == 1 and state.request is None:
        if not state.is_templated:
            _note(state, start_ns)
        state.is_templated = False


def enter_template(call: Call, start_ns: int) -> None:
    """Note the start of an outermost chat template."""
    state = marks.current()
    state.tokenize_depth += 1
    if state.tokenize_depth == 1 and state.request is None:
        _note(state, start_ns)
        state.is_templated = True


def leave_tokenize(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """Note the end of a tokenizer call or chat template."""
    state = marks.current()
    # A forked child leaves calls that its parent entered.
    state.tokenize_depth = max(state.tokenize_depth - 1, 0)


def take() -> int:
    """Return when the prompt of the request that starts now started to be tokenized, 0 if nobody saw that.

    A thread that never tokenized anything generates for one that did.
    """
    global _last_start_ns
    state = marks.current()
    start_ns = state.prompt_start_ns if state.has_tokenized else _last_start_ns
    if start_ns == _last_start_ns:
        _last_start_ns = 0
    state.prompt_start_ns = 0
    state.is_templated = False
    return start_ns


def forget() -> None:
    """Drop the prompts that no request has taken."""
    global _last_start_ns
    marks.current().prompt_start_ns = _last_start_ns = 0


def _note(state: marks.ThreadState, start_ns: int) -> None:
    global _last_start_ns
    state.has_tokenized = True
    state.prompt_start_ns = _last_start_ns = start_ns
