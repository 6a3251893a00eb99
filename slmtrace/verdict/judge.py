"""Judge the windows of a run: floors and findings, the findings ranked by what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..model.report import Finding, WindowReport
from ..model.taxonomy import WindowKind
from .case import Case, steady_requests
from .facts import WindowFacts
from .floors import floors
from .rule import Claim, Rule
from .rules import RULES

# A finding is worth a twentieth of its window, and more than what comes and goes by itself.
MIN_SHARE = 0.05
MIN_NS = {WindowKind.LOAD: 50_000_000, WindowKind.TTFT: 2_000_000}
# A normal distribution's standard deviation is 1.48 median distances: this is three of them.
NOISE_FACTOR = 4.45
MIN_LOST_SHARE = 0.001
_CONFIDENCES = ("high", "medium", "low")


def judge(
    windows: Sequence[WindowReport],
    facts: Sequence[WindowFacts],
    state: Mapping[str, Any],
    ledger: Sequence[Mapping[str, Any]] = (),
) -> list[WindowReport]:
    """Give each window its floors and its findings. Reads nothing but its arguments."""
    steady = steady_requests(windows)
    n_doubts = _n_doubts(ledger)
    judged = []
    for window, known in zip(windows, facts, strict=True):
        case = Case(window, known, state, steady)
        judged.append(replace(window, floors=floors(case), findings=findings(case, n_doubts)))
    return judged


def findings(case: Case, n_doubts: int = 0) -> list[Finding]:
    """Ask every rule in turn; each sees only the time that those before it left. The costliest finding comes first."""
    found = []
    for rule in RULES:
        left_ns = rule.left(case)
        claim = rule.weigh(case) if left_ns else None
        if claim is not None and is_worth_a_finding(rule, min(claim.excess_ns, left_ns), case):
            excess_ns = min(claim.excess_ns, left_ns)
            case.take(excess_ns, rule.causes, rule.stages)
            found.append(_finding(rule, claim, excess_ns, n_doubts))
    return sorted(found, key=lambda finding: (-finding.excess_ns, finding.id))


def is_worth_a_finding(rule: Rule, excess_ns: int, case: Case) -> bool:
    """Say whether an excess is large against its window and against the noise of the run."""
    least_ns = max(MIN_SHARE * case.total_ns, MIN_NS[case.window.kind], rule.least_ns)
    if case.is_steady and rule.is_work:
        least_ns = max(least_ns, NOISE_FACTOR * case.noise_ns(rule.causes))
    return excess_ns >= least_ns


def _finding(rule: Rule, claim: Claim, excess_ns: int, n_doubts: int) -> Finding:
    cause = rule.causes[0]
    gain_ns = excess_ns if claim.gain_ns is None else max(min(claim.gain_ns, excess_ns), 0)
    rank = min(_CONFIDENCES.index(claim.confidence) + n_doubts, len(_CONFIDENCES) - 1)
    return Finding(rule.id, cause.phase, cause, excess_ns, claim.evidence, claim.remedy, gain_ns, _CONFIDENCES[rank])


def _n_doubts(ledger: Sequence[Mapping[str, Any]]) -> int:
    """Return by how many steps losses lower the confidence: one where a source lost more than one record in 1,000."""
    return int(
        any(sum(int(n) for n in line["lost"].values()) > MIN_LOST_SHARE * max(int(line["seen"]), 1) for line in ledger)
    )
