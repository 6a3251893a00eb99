"""A comparison as one page: what is unlike, then window by window both sides on one scale, and what moved."""

from __future__ import annotations

from collections.abc import Sequence

from ...model.report import Report
from ...units import format_ns
from ..diff.compare import Comparison, Movement, WindowComparison
from ..diff.rows import change_of, noise, signed, verdict, what
from ..plain import plain
from ..summary import node_facts
from .markup import page, phase_bar, swatch, table, text


def render_diff_html(comparison: Comparison) -> str:
    """Render one self-contained page."""
    sides = [f"<p><strong>{name}</strong> {text(_side(one))}</p>" for name, one in _sides(comparison)]
    body = ["<h1>What moved from A to B</h1>", *sides, _unlike(comparison)]
    body += [_window(window, comparison) for window in comparison.windows]
    body += [f'<p class="alert">{text(line)}</p>' for line in comparison.unmatched]
    return page("slmtrace: what moved", body if comparison.windows else [*body, "<p>No window in common.</p>"])


def _sides(comparison: Comparison) -> Sequence[tuple[str, Report]]:
    return (("A", comparison.a), ("B", comparison.b))


def _side(report: Report) -> str:
    return " · ".join([*node_facts(report), plain(report.capture.get("created") or "")])


def _unlike(comparison: Comparison) -> str:
    if not comparison.unlike:
        return "<p>A and B are alike in all that was recorded of their state.</p>"
    rows = [[text(one.fact), text(one.a), text(one.b)] for one in comparison.unlike]
    warning = '<p class="alert"><strong>A and B are unlike: what moved may be due to this alone.</strong></p>'
    return f'<div class="panel">{warning}\n{table(["fact", "A", "B"], rows, wide=["A", "B"])}</div>'


def _window(window: WindowComparison, comparison: Comparison) -> str:
    longer_ns = max(window.total.a.ns, window.total.b.ns, 1)
    bars = [
        [
            side,
            format_ns(total.ns),
            phase_bar(
                {one.phase: getattr(one, side.lower()).ns for one in window.phases if one.phase is not None},
                share_of_width=total.ns / longer_ns,
                is_small=True,
            ),
        ]
        for side, total in (("A", window.total.a), ("B", window.total.b))
    ]
    parts = [f"<h2>{text(window.label)}</h2>", f"<p>{text(verdict(window, has_noise=comparison.has_noise))}</p>"]
    parts.append(table(["side", "total", "phases"], bars, wide=["phases"]))
    for title, movements in (("phase", window.phases), ("stage", window.stages), ("cause", window.causes)):
        parts.append(_movements(title, movements, comparison))
    return "<section>\n" + "\n".join(parts) + "\n</section>"


def _movements(title: str, movements: Sequence[Movement], comparison: Comparison) -> str:
    head = [title, "A", "B", "B - A", "change", *(["noise"] if comparison.has_noise else []), "what"]
    moved = [one for one in movements if one.a.ns or one.b.ns]
    rows = []
    for one in sorted(moved, key=lambda one: (-abs(one.delta_ns), one.name)):
        name = (swatch(one.phase) if one.phase is not None else "") + text(one.name)
        cells = [format_ns(one.a.ns), format_ns(one.b.ns), signed(one.delta_ns), change_of(one)]
        cells += [noise(one, comparison)] if comparison.has_noise else []
        rows.append([name, *cells, text(what(one, 60))])
    return table(head, rows, wide=["what"])
