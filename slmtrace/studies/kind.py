"""A kind of sweep: what a user asks of it, what its axis is, and how its points are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..builtin import RunRequest
from .point import Point

# What a run generates where the time of a whole answer counts.
GENERATED_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Order:
    """What a user asks of a sweep."""

    request: RunRequest
    values: Sequence[int] = ()  # the points, in place of the usual ones
    may_apply: bool = False  # the node's settings may be changed


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of sweep. Of its points the first is what the others are compared with."""

    name: str
    axis: str  # in a few words
    plan: Callable[[Order], list[Point]]
    engine: str = ""  # the only one that can; '': any
    takes_values: bool = True
    needs_apply: bool = False  # it changes settings of the node
    missing: str = "name two --values or more, such as 128,512"  # what to do where there is nothing to compare

    @property
    def help(self) -> str:
        """Return its line of the command's help."""
        notes = [self.engine] * bool(self.engine) + ["--apply"] * self.needs_apply
        return self.axis + (f" ({', '.join(notes)})" if notes else "")
