"""Ranges as NVTX ranges of the domain "slmtrace", for the tools that listen to NVTX.

The NVTX library looks for its tool once, at the first call, so whether anyone listens is settled once per process.
Where nobody does, the library (which imports numpy) is not even loaded.
"""

from __future__ import annotations

import os

from . import environment
from .recorder import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOMAIN = "slmtrace"

# False once it is known that nobody listens.
may_listen = True

_is_settled = False
_domain: Any = None
_attributes: dict[str, Any] = {}


def push(name: str) -> bool:
    """Open a range of a name "stage|label" on this thread; say whether there is one to pop."""
    if not _is_settled:
        _settle()
    if _domain is None:
        return False
    try:
        attributes = _attributes.get(name)
        if attributes is None:
            attributes = _attributes[name] = _domain.get_event_attributes(message=name.lstrip("|"))
        _domain.push_range(attributes)
        return True
    except Exception as error:
        complain(error)
        return False


def pop() -> None:
    """Close this thread's innermost range."""
    _domain.pop_range()


def _settle() -> None:
    global _is_settled, _domain, may_listen
    wanted = os.environ.get(environment.NVTX, "auto")
    if wanted == "on" or (wanted == "auto" and any(os.environ.get(name) for name in environment.NVTX_TOOLS)):
        try:
            import nvtx

            domain = nvtx.get_domain(DOMAIN)
            # The library answers with a dummy when no tool took the domain.
            _domain = None if type(domain).__name__ == "DummyDomain" else domain
        except Exception as error:
            complain(error)
    may_listen = _domain is not None
    _is_settled = True
