"""Small pieces of HTML. Every text from outside passes `text`, which leaves no markup or control character in it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from importlib import resources

from ...model.taxonomy import Phase
from ...units import format_ns, format_share
from ..plain import plain

# Nothing may be fetched, whatever the page holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
# A label has room from this share of the bar on.
_LABEL_SHARE = 0.08


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole page: one file, with nothing to fetch."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            # Otherwise the browser asks the server for one.
            '<link rel="icon" href="data:,">',
            f"<title>{text(title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def text(value: object, limit: int = 400) -> str:
    """Return a text for a page."""
    return html.escape(plain(value, limit))


def swatch(phase: Phase) -> str:
    """Return a spot of a phase's colour."""
    return f'<span class="swatch" style="background:var(--{phase.label})"></span>'


def phase_bar(phases: Mapping[Phase, int], *, share_of_width: float = 1.0, is_small: bool = False) -> str:
    """Return a stacked bar of phases, and the same in words for those who cannot see it."""
    total_ns = sum(phases.values())
    present = [(phase, phases[phase]) for phase in Phase if phases.get(phase, 0) > 0]
    words = ", ".join(f"{phase.label} {format_ns(ns)} ({format_share(ns, total_ns)})" for phase, ns in present)
    spans = []
    for phase, ns in present:
        label = phase.label if not is_small and ns >= _LABEL_SHARE * total_ns else ""
        style = f"width:{100 * ns / total_ns:.3f}%;background:var(--{phase.label})"
        spans.append(f'<span style="{style}" title="{phase.label} {format_ns(ns)}">{label}</span>')
    width = f' style="width:{100 * share_of_width:.2f}%;min-width:2px"' if share_of_width < 1 else ""
    kind = "bar small" if is_small else "bar"
    return f'<div class="{kind}" role="img" aria-label="{text(words or "no time")}"{width}>{"".join(spans)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", wide: Sequence[str] = ()) -> str:
    """Return a table of cells that are HTML already; its first column names the rows, columns in `wide` may wrap."""
    if not rows:
        return ""

    def cell(column: int, content: str) -> str:
        if column == 0:
            return f'<th scope="row" class="name">{content}</th>'
        return f'<td class="wide">{content}</td>' if head[column] in wide else f"<td>{content}</td>"

    kinds = [' class="name"' if column == 0 or name in wide else "" for column, name in enumerate(head)]
    header = "".join(f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(head, kinds, strict=True))
    lines = ["<tr>" + "".join(cell(column, one) for column, one in enumerate(row)) + "</tr>" for row in rows]
    title = f"<caption>{text(caption)}</caption>" if caption else ""
    return "\n".join(
        [
            f'<div class="scroll" tabindex="0"><table>{title}',
            f"<thead><tr>{header}</tr></thead>",
            "<tbody>",
            *lines,
            "</tbody></table></div>",
        ]
    )


def details(summary: str, body: str, *, is_open: bool = False) -> str:
    """Return what a reader opens by a click; nothing for an empty body."""
    return (
        f"<details{' open' if is_open else ''}><summary>{text(summary)}</summary>\n{body}\n</details>" if body else ""
    )
