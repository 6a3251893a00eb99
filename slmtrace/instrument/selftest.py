"""Show that the instrument works in this interpreter, and what it costs. Run with the injected environment."""

from __future__ import annotations

from time import monotonic_ns

from .hooks.base import Hook
from .wrap import wrap

CALLS = 2000


def nothing() -> None:
    """Do nothing."""


def measure_call_ns(hook: Hook) -> int:
    """Return what wrapping adds to one call: the fastest of several rounds."""
    wrapped = wrap(nothing, hook)
    wrapped()
    return max(min(_round_ns(wrapped) - _round_ns(nothing) for _ in range(5)) // CALLS, 0)


def main() -> None:
    """Print the ns that a plain range and one with accounting cost."""
    plain = Hook("slmtrace", "plain")
    accounted = Hook("slmtrace", "accounted", begin=True, accounting=True)
    print(measure_call_ns(plain), measure_call_ns(accounted))


def _round_ns(function: object) -> int:
    start_ns = monotonic_ns()
    for _ in range(CALLS):
        function()  # type: ignore[operator]
    return monotonic_ns() - start_ns
