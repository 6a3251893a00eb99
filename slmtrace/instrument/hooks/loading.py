"""Loading: when the outermost call that loads something is over, the program may be ready."""

from __future__ import annotations

from .. import constants as c
from .. import marks
from ..wrap import FAILED, thread_usage, write_range
from . import prompts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..wrap import Call

_MODEL_INIT = "model_init|init"

# An engine that loads with this library says itself when it is ready.
is_embedded = False


def enter_loading(call: Call, start_ns: int) -> None:
    """Note that this thread loads something."""
    marks.current().loading_depth += 1


def leave_loading(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """Mark `ready` after the outermost load, each time: the last one before the first request counts.

    A prompt tokenized before a load is not the start of a request that waits for that load.
    """
    state = marks.current()
    # A forked child leaves calls that its parent entered.
    state.loading_depth = max(state.loading_depth - 1, 0)
    if state.loading_depth == 0 and state.request is None and result is not FAILED and not is_embedded:
        marks.mark(c.MARK_READY, at_ns=end_ns)
        prompts.forget()


def begin_model_init(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """The contexts for building a model are ready: from_pretrained builds it next."""
    marks.current().pending[_MODEL_INIT] = (end_ns, thread_usage())


def end_model_init(call: Call, start_ns: int) -> None:
    """The model is built, without its weights; the first call after that says so, later ones find nothing pending."""
    begun = marks.current().pending.pop(_MODEL_INIT, None)
    if begun is not None:
        write_range(_MODEL_INIT, begun[0], start_ns, begun[1])
