"""A comparison as text and as Markdown: what is unlike first, then window by window what moved."""

from __future__ import annotations

from collections.abc import Sequence

from ...model.report import Report
from ...units import format_ns
from ..markdown import code, fold, table
from ..plain import plain
from ..summary import clip, node_facts
from .compare import Comparison, Movement, WindowComparison
from .rows import change_of, largest, noise, signed, verdict, what

_MAX_WINDOWS = 3
_MAX_UNLIKE = 12


def render_diff_text(comparison: Comparison, *, width: int = 100) -> str:
    """Render the comparison in lines of at most `width` columns."""
    lines = [f"A  {_side(comparison.a)}", f"B  {_side(comparison.b)}"]
    if comparison.has_noise:
        lines.append(f"   {comparison.n_repeats} runs each: of each side the run with the median total is shown")
    lines += _unlike_lines(comparison)
    detailed, brief = _ranked(comparison)
    for window in detailed:
        lines += ["", f"{window.label}: {verdict(window, has_noise=comparison.has_noise)}", *_table(window, comparison)]
    if brief:
        lines.append("")
        lines += [f"{window.label}: {verdict(window, has_noise=comparison.has_noise)}" for window in brief]
    lines += ["", *comparison.unmatched] if comparison.unmatched else []
    if not comparison.windows:
        lines += ["", "A and B have no window in common."]
    return "\n".join(clip(line.rstrip(), width) for line in lines) + "\n"


def render_diff_markdown(comparison: Comparison) -> str:
    """Render the comparison as GitHub-flavoured Markdown."""
    detailed, brief = _ranked(comparison)
    sections = [
        ["### slmtrace: what moved from A to B", "", *_warning(comparison)],
        [
            f"- **{window.label} {format_ns(window.total.a.ns)} → {format_ns(window.total.b.ns)}**:"
            f" {verdict(window, has_noise=comparison.has_noise)}"
            for window in [*detailed, *brief]
        ],
        *(fold(f"{window.label}: phases, stages, causes", _markdown_table(window, comparison)) for window in detailed),
        [f"- {side}: {code(_side(report))}" for side, report in (("A", comparison.a), ("B", comparison.b))],
        [f"- {line}" for line in comparison.unmatched],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if any(lines)) + "\n"


def _ranked(comparison: Comparison) -> tuple[list[WindowComparison], list[WindowComparison]]:
    """Return the windows that moved most, and the others, both in the order of the recording."""
    by_movement = sorted(comparison.windows, key=lambda one: (-abs(one.total.delta_ns), one.kind, one.index))
    chosen = by_movement[:_MAX_WINDOWS]
    return [one for one in comparison.windows if one in chosen], [
        one for one in comparison.windows if one not in chosen
    ]


def _side(report: Report) -> str:
    created = plain(report.capture.get("created", ""))
    return " · ".join([*node_facts(report), *([created] if created else [])])


def _unlike_lines(comparison: Comparison) -> list[str]:
    if not comparison.unlike:
        return ["A and B are alike in all that was recorded of their state."]
    lines = ["UNLIKE: what moved may be due to these alone"]
    fact_columns = max(len(one.fact) for one in comparison.unlike[:_MAX_UNLIKE])
    lines += [f"  {one.fact:{fact_columns}}  A: {one.a}  B: {one.b}" for one in comparison.unlike[:_MAX_UNLIKE]]
    n_left = len(comparison.unlike) - _MAX_UNLIKE
    return lines + ([f"  and {n_left} more: --format json"] if n_left > 0 else [])


def _warning(comparison: Comparison) -> list[str]:
    if not comparison.unlike:
        return ["A and B are alike in all that was recorded of their state."]
    rows = [[one.fact, code(one.a), code(one.b)] for one in comparison.unlike[:_MAX_UNLIKE]]
    return ["**A and B are unlike: what moved may be due to this alone.**", "", *table(["fact", "A", "B"], rows)]


def _table(window: WindowComparison, comparison: Comparison) -> list[str]:
    header = f"  {'':8}{'':26}{'A':>9}{'B':>9}{'B - A':>10}{'change':>9}"
    lines = [header + (f"{'noise':>12}" if comparison.has_noise else "") + "  what"]
    for group, movements in _groups(window):
        for number, one in enumerate(movements):
            line = f"  {group if number == 0 else '':8}{one.name:26}{format_ns(one.a.ns):>9}{format_ns(one.b.ns):>9}"
            line += f"{signed(one.delta_ns):>10}{change_of(one):>9}"
            line += f"{noise(one, comparison):>12}" if comparison.has_noise else ""
            lines.append(f"{line}  {what(one, 40)}")
    return lines


def _markdown_table(window: WindowComparison, comparison: Comparison) -> list[str]:
    head = ["", "what", "A", "B", "B - A", "change", *(["noise"] if comparison.has_noise else []), "where"]
    rows = []
    for group, movements in _groups(window):
        for one in movements:
            cells = [group, one.name, format_ns(one.a.ns), format_ns(one.b.ns), signed(one.delta_ns), change_of(one)]
            cells += [noise(one, comparison)] if comparison.has_noise else []
            detail = what(one, 60)
            rows.append([*cells, code(detail) if detail else ""])
    return table(head, rows)


def _groups(window: WindowComparison) -> Sequence[tuple[str, list[Movement]]]:
    groups = (("phase", window.phases), ("stage", window.stages), ("cause", window.causes))
    return [("total", [window.total]), *((name, largest(movements)) for name, movements in groups)]
