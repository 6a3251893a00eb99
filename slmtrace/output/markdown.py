"""The report for a bug tracker: summary, table, collapsible details, environment; under sixty lines.

Names from the recorded program stand in code spans, where neither markup nor mentions work.
"""

from __future__ import annotations

from ..model.percentiles import Percentile
from ..model.report import Report, WindowReport
from ..model.taxonomy import Phase
from ..units import format_ns
from . import summary
from .plain import plain
from .summary import ShownWindow

_MAX_WINDOWS = 3
# Lines of the first, second and third window.
_STAGES, _CAUSES = (3, 2, 0), (5, 2, 1)
_MAX_FINDINGS, _MAX_TROUBLE = 3, 2


def render_markdown(report: Report) -> str:
    """Render the report as GitHub-flavoured Markdown."""
    windows = summary.shown_windows(report)[:_MAX_WINDOWS]
    sections = [
        ["### slmtrace: why the first token took its time", *_headlines(report, windows)],
        _findings(windows),
        _phases(windows, summary.percentiles(report)),
        fold("Causes", _causes(windows)),
        fold("Stages", [] if summary.is_attached(report) else _stages(windows)),
        fold("Environment", _environment(report)),
        [f"> {_text(line)}" for line in summary.trouble(report)[:_MAX_TROUBLE]],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _headlines(report: Report, windows: list[ShownWindow]) -> list[str]:
    if not windows:
        return ["", f"No window was recorded: {summary.why_no_window(report)}."]
    lines = [""]
    for shown in windows:
        window = shown.window
        largest = max(Phase, key=lambda phase: (window.phases.get(phase, 0), -phase))
        share = summary.share_of(window.phases.get(largest, 0), window.total_ns)
        note = f" ({_text(shown.note)})" if shown.note else ""
        lines.append(f"- **{shown.label} {format_ns(window.total_ns)}**, {share} of it {largest.label}{note}")
    return lines


def _findings(windows: list[ShownWindow]) -> list[str]:
    return [
        f"- **{shown.label}**: {format_ns(finding.excess_ns)} too long, {code(finding.id)}: {_text(finding.evidence)}."
        f" Try: {_text(finding.recommendation)} (saves about {format_ns(finding.predicted_gain_ns)},"
        f" {_text(finding.confidence)} confidence)"
        for shown in windows
        for finding in shown.window.findings
    ][:_MAX_FINDINGS]


def _phases(windows: list[ShownWindow], percentiles: list[Percentile]) -> list[str]:
    """Tabulate phases by window: the first thing that a reader compares. Percentiles follow, each a request's own."""
    if not windows:
        return []
    columns = [(shown.label, shown.window, "") for shown in windows]
    columns += [(f"p{p.percent} ({p.window.label})", p.window, summary.for_others(p.window)) for p in percentiles]
    rows = [
        [phase.label, *(_phase_cell(phase, window, shared) for _, window, shared in columns)]
        for phase in summary.shown_phases([window for _, window, _ in columns])
    ]
    total = ["**total**", *(f"**{format_ns(window.total_ns)}**" for _, window, _ in columns)]
    return table(["phase", *(label for label, _, _ in columns)], [*rows, total])


def _phase_cell(phase: Phase, window: WindowReport, shared: str) -> str:
    cell = _time_and_share(window.phases.get(phase, 0), window)
    return f"{cell}, {shared}" if shared and phase is Phase.COMPUTE else cell


def _causes(windows: list[ShownWindow]) -> list[str]:
    rows = []
    for shown, limit in zip(windows, _CAUSES, strict=False):
        for share in summary.top_causes(shown.window, limit):
            cells = summary.cause_cells(share, shown.window)
            rows.append([shown.label, *cells, code(summary.where(share, 80))])
    return table(["window", "cause", "time", "share", "count", "bytes", "what"], rows) if rows else []


def _stages(windows: list[ShownWindow]) -> list[str]:
    phases = summary.shown_phases([shown.window for shown in windows])
    rows = []
    for shown, limit in zip(windows, _STAGES, strict=False):
        if not limit:
            continue
        chosen, rest = summary.top_stages(shown.window, limit)
        named = [(share.stage.label, share.ns, share.phases) for share in chosen]
        if rest:
            summed = {phase: sum(share.phases.get(phase, 0) for share in rest) for phase in Phase}
            named.append((f"{len(rest)} others", sum(share.ns for share in rest), summed))
        for name, ns, by_phase in named:
            cells = [format_ns(by_phase[phase]) if by_phase.get(phase, 0) else "-" for phase in phases]
            rows.append([shown.label, name, format_ns(ns), *cells])
    return table(["window", "stage", "total", *(phase.label for phase in phases)], rows) if rows else []


def _environment(report: Report) -> list[str]:
    recorded = ", ".join(summary.sources_recorded(report)) or "nothing"
    missing, cost = summary.sources_missing(report), summary.cost(report)
    lines = [
        f"- {_text(' · '.join(summary.node_facts(report)))}",
        f"- state: {_text(', '.join(summary.state_facts(report)) or 'not recorded')}",
        f"- recorded: {_text(recorded)}" + (f"; without {_text(', '.join(missing))}" if missing else ""),
    ]
    lines += [f"- the recording itself took {_text(cost)}"] if cost else []
    return lines


def fold(title: str, body: list[str]) -> list[str]:
    """Return lines that a reader opens by a click; none for an empty body."""
    return [f"<details><summary>{title}</summary>", "", *body, "</details>"] if body else []


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table; its numbers are aligned to the right."""
    is_text = [index == 0 or cell in ("cause", "stage", "what", "where") for index, cell in enumerate(head)]
    ruler = ["---" if left else "---:" for left in is_text]
    return ["| " + " | ".join(cells) + " |" for cells in [head, ruler, *rows]]


def _time_and_share(ns: int, window: WindowReport) -> str:
    return f"{format_ns(ns)} ({summary.share_of(ns, window.total_ns)})" if ns else "-"


def code(name: object) -> str:
    """Quote a name; a pipe would end its table cell even there (GitHub Flavored Markdown, "Tables")."""
    return "`" + plain(name).replace("`", "'").replace("|", "\\|") + "`"


def _text(text: object) -> str:
    """Escape what Markdown, HTML or GitHub would act on."""
    shown = plain(text, 400)
    for char in "\\`*_[]<>|#":
        shown = shown.replace(char, "\\" + char)
    # An entity reads the same and mentions nobody.
    return shown.replace("@", "&#64;")
