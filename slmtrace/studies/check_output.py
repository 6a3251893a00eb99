"""What the regression gate decided, as text, as a summary for GitHub, and as JUnit XML."""

from __future__ import annotations

import math
from xml.sax.saxutils import quoteattr

from ..output.diff.compare import WindowComparison
from ..output.diff.rows import largest, signed, verdict
from ..output.markdown import fold, table
from ..output.plain import plain
from ..units import format_ns
from .check import CheckResult, SeriesVerdict
from .sequential import MAX_REPEATS, Decision

_OWN_TIME = "without waits for a CPU"
_WORDS = {
    Decision.REGRESSION: "REGRESSION",
    Decision.PASS: "pass",
    Decision.UNDECIDED: "not decided",
}


def render_check_text(result: CheckResult) -> str:
    """Render the verdict for a terminal or a log."""
    lines = [_headline(result), ""]
    for one, window in _rows(result):
        a, b = window.total.a.ns, window.total.b.ns
        lines.append(f"{one.label:<11} {_WORDS[one.decision]:<11} {format_ns(a)} -> {format_ns(b)}  {_numbers(one)}")
        if one.decision is Decision.REGRESSION:
            lines += [f"            {line}" for line in _causes(window)]
        elif one.decision is Decision.UNDECIDED and math.isfinite(one.shift.visible):
            lines.append(f"            try: {_remedy(one, result)}")
    return "\n".join([*lines, *_unlike(result)]) + "\n"


def render_check_summary(result: CheckResult) -> str:
    """Render the verdict as GitHub-flavoured Markdown, for a step summary or a comment."""
    rows = [
        [
            one.label,
            _WORDS[one.decision],
            format_ns(window.total.a.ns),
            format_ns(window.total.b.ns),
            _percent(one.shift.estimate) + (f" {_OWN_TIME}" if one.is_own_time else ""),
            _visible(one),
        ]
        for one, window in _rows(result)
    ]
    moved = [
        [one.label, movement.name, format_ns(movement.a.ns), format_ns(movement.b.ns), signed(movement.delta_ns)]
        for one, window in _rows(result)
        for movement in largest(window.causes)
        if movement.delta_ns
    ]
    head = ["window", "verdict", "baseline", "now", "change", "smallest visible"]
    sections = [
        [f"### slmtrace check: {_headline(result)}"],
        table(head, rows),
        fold("What moved", table(["window", "cause", "baseline", "now", "difference"], moved) if moved else []),
        [f"> {line}" for line in _unlike(result)],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def render_check_junit(result: CheckResult) -> str:
    """Render one test case a window; a window that could not be decided is skipped, not passed."""
    cases = []
    for one, window in _rows(result):
        seconds = window.total.b.ns / 1e9
        opening = f'<testcase classname="slmtrace.check" name={quoteattr(one.label)} time="{seconds:.6f}">'
        message = quoteattr(f"{_numbers(one)}; {'; '.join(_causes(window))}")
        inner = {
            Decision.REGRESSION: f'<failure type="regression" message={message}/>',
            Decision.UNDECIDED: f"<skipped message={quoteattr(_numbers(one))}/>",
            Decision.PASS: "",
        }[one.decision]
        cases.append(f"  {opening}{inner}</testcase>")
    n_failed = sum(one.decision is Decision.REGRESSION for one in result.verdicts)
    n_skipped = sum(one.decision is Decision.UNDECIDED for one in result.verdicts)
    counts = f'tests="{len(cases)}" failures="{n_failed}" errors="0" skipped="{n_skipped}"'
    suite = f'<testsuite name="slmtrace check" {counts}>'
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', suite, *cases, "</testsuite>", ""])


def _rows(result: CheckResult) -> list[tuple[SeriesVerdict, WindowComparison]]:
    windows = {(window.kind.label, window.index): window for window in result.comparison.windows}
    keys = {"load": ("load", 0), "first ttft": ("ttft", 0), "later ttft": ("ttft", 1)}
    return [(one, windows[keys[one.label]]) for one in result.verdicts]


def _headline(result: CheckResult) -> str:
    slower = [one.label for one in result.verdicts if one.decision is Decision.REGRESSION]
    undecided = [one.label for one in result.verdicts if one.decision is Decision.UNDECIDED]
    runs = f"{result.n_repeats} runs against {result.n_baseline}"
    limit = f"{100 * result.max_regression:.3g} %"
    if slower:
        return f"{', '.join(slower)} slower by more than noise ({runs}, limit {limit})"
    if undecided:
        return f"no regression found, but {', '.join(undecided)} too noisy to exclude {limit} ({runs})"
    return f"no regression of {limit} ({runs})"


def _numbers(one: SeriesVerdict) -> str:
    shift = one.shift
    bounds = f"{_percent(shift.low)} to {_percent(shift.high)}"
    without = f"{_OWN_TIME}: " if one.is_own_time else ""
    return f"{without}{_percent(shift.estimate)} ({bounds}); smallest visible regression {_visible(one)}"


def _remedy(one: SeriesVerdict, result: CheckResult) -> str:
    """Return what would decide a window: what can be seen shrinks with the square root of the runs."""
    n = math.ceil(result.n_repeats * (one.shift.visible / result.max_regression) ** 2 / 10) * 10
    limit = f"{100 * result.max_regression:.3g} %"
    if n > MAX_REPEATS:
        return f"a quieter machine, or a larger --max-regression: {limit} would take about {n} runs"
    return f"--max-repeats {max(n, result.n_repeats + 10)}: {limit} takes about {n} runs here"


def _visible(one: SeriesVerdict) -> str:
    return "unknown" if math.isinf(one.shift.visible) else f"{100 * one.shift.visible:.2g} %"


def _percent(share: float) -> str:
    return "unbounded" if math.isinf(share) else f"{100 * share:+.1f} %"


def _causes(window: WindowComparison) -> list[str]:
    phase = max(window.phases, key=lambda one: one.delta_ns)
    grown = f"phase {phase.name} {signed(phase.delta_ns)}"
    return [verdict(window, has_noise=False), grown]


def _unlike(result: CheckResult) -> list[str]:
    unlike = result.comparison.unlike
    if not unlike:
        return []
    facts = "; ".join(f"{plain(one.fact)}: {plain(one.a)} -> {plain(one.b)}" for one in unlike[:8])
    return [f"unlike, and perhaps all that moved: {facts}"]
