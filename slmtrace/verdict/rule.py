"""What a rule is, and what it says when it applies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..model.taxonomy import Cause, Stage
from .case import Case


@dataclass(frozen=True, slots=True)
class Claim:
    """What a rule says of a window: so much of its causes' time need not be."""

    excess_ns: int
    evidence: str  # with the numbers, in half a sentence
    remedy: str  # a command or a setting
    gain_ns: int | None = None  # what the remedy saves; None: the whole excess
    confidence: str = "high"  # before losses


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of finding: which causes in which stages it may explain, and when it does.

    The first cause is the one that it names.
    """

    id: str
    causes: tuple[Cause, ...]
    weigh: Callable[[Case], Claim | None]
    stages: tuple[Stage, ...] = tuple(Stage)
    least_ns: int = 0  # what comes and goes by the nature of its causes
    is_work: bool = False  # its causes are work that a healthy window has too: it must stand out of the noise as well

    def left(self, case: Case) -> int:
        """Return the time that it may explain."""
        return case.left(self.causes, self.stages)
