"""What a sweep records: the list of its kinds, and the points of each."""

from __future__ import annotations

from ..errors import UsageError
from .kind import Kind, Order
from .node_kinds import NODE_KINDS
from .point import Point
from .run_kinds import RUN_KINDS

KINDS = (*RUN_KINDS, *NODE_KINDS)


def plan_sweep(name: str, order: Order) -> list[Point]:
    """Return the points of a sweep of this kind; the first is what the others are compared with.

    Raises:
        UsageError: the kind takes no values, needs another engine or --apply, or nothing can be compared here.
    """
    kind = find_kind(name)
    if order.values and not kind.takes_values:
        raise UsageError(f"the sweep {name} takes no --values", hint="leave them out")
    if kind.engine and order.request.engine != kind.engine:
        raise UsageError(f"the sweep {name} needs --engine {kind.engine}", hint=f"add --engine {kind.engine}")
    if kind.needs_apply and not order.may_apply:
        raise UsageError(
            f"the sweep {name} changes settings of this node", hint="add --apply, as root: what was found is put back"
        )
    points = kind.plan(order)
    if len(points) < 2:
        raise UsageError(f"the sweep {name} has nothing to compare here", hint=kind.missing)
    return points


def find_kind(name: str) -> Kind:
    """Return the kind of this name."""
    return next(kind for kind in KINDS if kind.name == name)
