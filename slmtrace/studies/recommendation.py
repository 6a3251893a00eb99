"""A recommendation: what to set, what was measured that speaks for it, and the snippet that keeps several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .setting import Setting, merge_snippets

# The confidence of what follows by arithmetic from what was measured, and was not itself tried.
COMPUTED = "computed"


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to set, and why."""

    subject: str  # the point of a sweep, a finding, or what is sized
    reason: str  # with the numbers that were measured
    confidence: str  # high, medium, low, or COMPUTED
    settings: tuple[Setting, ...]

    @property
    def text(self) -> str:
        """Return it in one line."""
        what = "; ".join(setting.command for setting in self.settings)
        return f"{self.subject}: {self.reason}, confidence {self.confidence}; {what or 'nothing to set'}"


def emit(recommendations: Sequence[Recommendation], form: str) -> str:
    """Return the recommendations as a snippet for sysctl.d and tmpfiles.d, a systemd unit or a Kubernetes container."""
    comments = [f"# {one.text}" for one in recommendations] or ["# nothing to set was found"]
    settings = [setting for one in recommendations for setting in one.settings]
    return "\n".join([*comments, *merge_snippets(settings, form)]) + "\n"
