"""Counters of what was wrong with the data. Nothing is repaired in silence: every report prints these."""

from __future__ import annotations

import enum
from collections import Counter

from ..units import format_ns


class Issue(enum.Enum):
    """What was found wrong, as the report says it."""

    NEGATIVE_DURATION = "events that ended before they began, set to zero length"
    CROSSING_EVENTS = "events that overlapped without nesting, cut at their parent's end"
    UNKNOWN_KIND = "records of a kind unknown to this build, skipped"
    UNFINISHED_RANGE = "ranges whose end was never recorded, ended with their thread"
    CUT_LOG = "raw logs cut inside a record, the cut record skipped"
    MISSING_STRING = "records whose text was lost"
    LOST_SWITCH = "scheduler records that contradict one another (lost switches)"
    REBUILT_SWITCH = "switches that the kernel did not report, rebuilt from its account of CPU time"
    FOLD_OVERFLOW = "summed short events that found no place in their thread's time on a CPU"
    UNREADABLE_LOG = "raw logs that could not be read"
    IMPLAUSIBLE_TIME = "records with a time outside the recording, skipped"
    DAMAGED_RECORD = "records with values that cannot be, skipped"
    UNPAIRED_BLOCK_IO = "block requests that started or ended twice in a row, skipped"
    NO_FIRST_TOKEN = "requests that began and whose first token was not seen, without a window"
    UNACCOUNTED = "records that a source saw or wrote and nobody can account for"


_IN_NS = {Issue.FOLD_OVERFLOW}


class Quality:
    """Count issues, or add up their nanoseconds."""

    def __init__(self) -> None:
        self.counts: Counter[Issue] = Counter()

    def note(self, issue: Issue, n: int = 1) -> None:
        """Count `n` more of an issue, or nanoseconds where it is measured in time."""
        if n:
            self.counts[issue] += int(n)

    def lines(self) -> list[str]:
        """Return one line an issue, in the order of their definition."""
        return [f"{issue.value}: {_amount(issue, n)}" for issue in Issue if (n := self.counts[issue])]


def _amount(issue: Issue, n: int) -> str:
    return format_ns(n) if issue in _IN_NS else f"{n:,}"
