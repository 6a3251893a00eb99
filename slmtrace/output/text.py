"""The report on a terminal: a bar a window, the verdict, why and where the time went, and what the report lacks.

It shows what matters most in about twenty lines, or one window in full.
"""

from __future__ import annotations

import io
import textwrap
from dataclasses import replace

from rich.console import Console
from rich.text import Text

from ..model.report import CauseShare, Report, WindowReport
from ..model.taxonomy import Phase
from ..units import format_bytes, format_count, format_ns
from . import summary
from .bars import SHORT_NAMES, STYLES, stacked_bar
from .plain import plain
from .summary import ShownWindow

_LABEL_COLUMNS, _STAGE_COLUMNS, _TIME_COLUMNS, _CAUSE_COLUMNS = 11, 15, 8, 26
_WIDE = 96
# How many stages and causes the summary shows of the first, second and third window.
_STAGES, _CAUSES = (2, 2, 0), (4, 2, 1)
_FINDINGS = 3  # of a window, in the summary
_MAX_TROUBLE = 3
_DETAILS_PER_CAUSE = 5

Lines = list[Text]


def render_text(report: Report, window: WindowReport | None = None, *, width: int = 100, color: bool = False) -> str:
    """Render the report, or one window of it in full, in lines of at most `width` columns."""
    if window is not None:
        report = replace(report, windows=[window])
    windows = summary.shown_windows(report)
    is_full = window is not None
    sections = [
        _head(report, width) + _bars(report, windows, width, color=color),
        _findings(windows, width, is_full=is_full),
        _percentiles(report, width, color=color),
        _causes(windows, width, is_full=is_full),
        [] if summary.is_attached(report) else _stages(windows, width, is_full=is_full),
        _details(windows[0].window, width) if is_full else [],
        _foot(report),
    ]
    lines = [line for section in sections if section for line in [*section, Text()]]
    return _print(lines[:-1], width, color=color)


def _head(report: Report, width: int) -> Lines:
    """Say what was recorded where, on one line if it fits."""
    node, state = summary.node_facts(report), summary.state_facts(report)
    head = Text("slmtrace  ", style="bold").append(" · ".join([*node, *state]), style="not bold")
    if len(head) <= width or not state:
        return [head]
    head = Text("slmtrace  ", style="bold").append(" · ".join(node), style="not bold")
    return [head, Text(" " * 10 + " · ".join(state))]


def _findings(windows: list[ShownWindow], width: int, *, is_full: bool) -> Lines:
    """Give the verdict: what costs more than it must, the evidence, and what to do about it."""
    lines: Lines = []
    for shown in windows:
        found = shown.window.findings if is_full else shown.window.findings[:_FINDINGS]
        for row, finding in enumerate(found):
            what = f"{format_ns(finding.excess_ns)} too long, {plain(finding.id)}: {plain(finding.evidence)}"
            remedy = f"try: {plain(finding.recommendation)}"
            remedy += f" (saves about {format_ns(finding.predicted_gain_ns)}, {plain(finding.confidence)} confidence)"
            lines += _hanging(shown.label if row == 0 else "", what, width, style="bold")
            lines += _hanging("", remedy, width, style="not bold")
    return [Text(summary.clip("verdict", width), style="bold"), *lines] if lines else []


def _hanging(label: str, text: str, width: int, *, style: str) -> Lines:
    """Lay a text out beside a label, on as many lines as it needs."""
    parts = textwrap.wrap(text, max(width - _LABEL_COLUMNS, _LABEL_COLUMNS), break_on_hyphens=False) or [""]
    lines = [Text(label.ljust(_LABEL_COLUMNS), style="bold"), *(Text(" " * _LABEL_COLUMNS) for _ in parts[1:])]
    return [line.append(part, style=style) for line, part in zip(lines, parts, strict=True)]


def _bars(report: Report, windows: list[ShownWindow], width: int, *, color: bool) -> Lines:
    if not windows:
        return [Text(f"No window was recorded: {summary.why_no_window(report)}.")]
    lines = [_bar(shown.label, shown.window, width, color=color) for shown in windows]
    lines += [
        Text(summary.clip(f"{'':{_LABEL_COLUMNS}}{shown.label}: {shown.note}", width), style="dim")
        for shown in windows
        if shown.note
    ]
    return lines


def _bar(label: str, window: WindowReport, width: int, *, color: bool) -> Text:
    room = width - _LABEL_COLUMNS - _TIME_COLUMNS - 2
    line = Text(label.ljust(_LABEL_COLUMNS), style="bold")
    line.append(format_ns(window.total_ns).rjust(_TIME_COLUMNS) + "  ")
    return line.append_text(stacked_bar(window.phases, room, color=color))


def _percentiles(report: Report, width: int, *, color: bool) -> Lines:
    """Draw the requests at the percentiles, and say which they are."""
    found = summary.percentiles(report)
    lines = [_bar(f"ttft p{one.percent}", one.window, width, color=color) for one in found]
    for one in found:
        shared = summary.for_others(one.window)
        text = f"p{one.percent} is {one.window.label}" + (f", {shared}" if shared else "")
        lines.append(Text(summary.clip(f"{'':{_LABEL_COLUMNS}}{text}", width), style="dim"))
    return lines


def _stages(windows: list[ShownWindow], width: int, *, is_full: bool) -> Lines:
    """Tabulate stages by phase; phases without time have no column, and the smallest share one where room is short."""
    if not windows:
        return []
    if not is_full:
        windows = windows[: sum(limit > 0 for limit in _STAGES)]
    room = width - _LABEL_COLUMNS - _STAGE_COLUMNS - _TIME_COLUMNS
    alone, together = _columns([shown.window for shown in windows], max(2, room // _TIME_COLUMNS))
    names = [SHORT_NAMES[phase] for phase in alone] + (["other"] if together else [])
    header = Text(f"{'where':{_LABEL_COLUMNS}}{'stage':{_STAGE_COLUMNS}}{'total':>{_TIME_COLUMNS}}", style="bold")
    for phase, name in zip([*alone, None], names, strict=False):
        header.append(name.rjust(_TIME_COLUMNS), style=STYLES[phase] if phase is not None else "")
    lines = [header]
    for number, shown in enumerate(windows):
        limit = len(shown.window.stages) if is_full else _STAGES[min(number, 2)]
        chosen, rest = summary.top_stages(shown.window, limit)
        rows = [(share.stage.label, share.ns, share.phases) for share in chosen]
        if rest:
            summed = {phase: sum(share.phases.get(phase, 0) for share in rest) for phase in Phase}
            rows.append((f"{len(rest)} others", sum(share.ns for share in rest), summed))
        for row, (name, ns, phases) in enumerate(rows):
            cells = [phases.get(phase, 0) for phase in alone]
            cells += [sum(phases.get(phase, 0) for phase in together)] if together else []
            line = Text((shown.label if row == 0 else "").ljust(_LABEL_COLUMNS), style="bold")
            line.append(f"{name:{_STAGE_COLUMNS}}{format_ns(ns):>{_TIME_COLUMNS}}", style="not bold")
            for cell in cells:
                shown_cell = (format_ns(cell) if cell else "-").rjust(_TIME_COLUMNS)
                line.append(shown_cell, style="not bold" if cell else "not bold dim")
            lines.append(line)
    return lines


def _columns(windows: list[WindowReport], limit: int) -> tuple[list[Phase], list[Phase]]:
    """Return the phases with a column of their own, and those that share the last one."""
    phases = summary.shown_phases(windows)
    if len(phases) <= limit:
        return phases, []

    def largest_share(phase: Phase) -> float:
        return max(window.phases.get(phase, 0) / max(window.total_ns, 1) for window in windows)

    ranked = sorted(phases, key=lambda phase: (-largest_share(phase), phase))
    return sorted(ranked[: limit - 1]), sorted(ranked[limit - 1 :])


def _causes(windows: list[ShownWindow], width: int, *, is_full: bool) -> Lines:
    """List the largest causes of each window, and on which files, packages or functions they were spent."""
    if not windows:
        return []
    chosen = [_chosen_causes(shown, number, is_full=is_full) for number, shown in enumerate(windows)]
    is_wide = width >= _WIDE
    has_bytes = is_wide and any(share.size_bytes for shares in chosen for share in shares)
    header = f"{'why':{_LABEL_COLUMNS}}{'phase.cause':{_CAUSE_COLUMNS}}{'time':>{_TIME_COLUMNS}}{'share':>6}"
    header += (f"{'count':>8}" if is_wide else "") + (f"{'bytes':>9}" if has_bytes else "")
    lines = [Text(header + "  what", style="bold")]
    for shown, shares in zip(windows, chosen, strict=True):
        for row, share in enumerate(shares):
            line = Text((shown.label if row == 0 else "").ljust(_LABEL_COLUMNS), style="bold")
            name, time, part, count, size = summary.cause_cells(share, shown.window)
            line.append(f"{name:{_CAUSE_COLUMNS}}", style=f"not bold {STYLES[share.cause.phase]}")
            line.append(f"{time:>{_TIME_COLUMNS}}{part:>6}", style="not bold")
            if is_wide:
                line.append(f"{count:>8}" + (f"{size:>9}" if has_bytes else ""), style="not bold")
            line.append("  " + summary.where(share, width - len(line.plain) - 2), style="not bold")
            lines.append(line)
    return lines


def _chosen_causes(shown: ShownWindow, number: int, *, is_full: bool) -> list[CauseShare]:
    limit = len(shown.window.causes) if is_full else _CAUSES[min(number, 2)]
    return summary.top_causes(shown.window, limit, min_share=0.0 if is_full else 0.02)


def _details(window: WindowReport, width: int) -> Lines:
    """List what each cause was spent on, what ran beside the path, and what physics allows."""
    lines: Lines = []
    for share in summary.top_causes(window, len(window.causes), min_share=0.0):
        for key in sorted(share.detail):
            lines += _detail_list(share, key, width)
    beside = [f"{phase.label} {format_ns(ns)}" for phase, ns in sorted(window.overlapped.items()) if ns]
    if beside:
        lines.append(Text(summary.clip("beside the critical path: " + ", ".join(beside), width)))
    for floor in window.floors:
        text = f"floor of {plain(floor.name)}: {format_ns(floor.floor_ns)}, took {format_ns(floor.actual_ns)}"
        lines.append(Text(summary.clip(f"{text} ({plain(floor.basis)})", width)))
    return lines


def _detail_list(share: CauseShare, key: str, width: int) -> Lines:
    rows = summary.detail_rows(share, key)
    if not rows:
        return []
    lines = [Text(f"{share.cause.phase.label}.{share.cause.label}: {plain(key)}", style="bold")]
    for row in rows[:_DETAILS_PER_CAUSE]:
        size = format_bytes(row["bytes"]) if row["bytes"] else "-"
        line = f"{format_ns(row['ns']):>9}{format_count(row['count']):>9}{size:>10}  "
        name = str(row["name"])
        room = width - len(line)
        lines.append(Text(line + (name if len(name) <= room else "…" + name[1 - room :])))
    if len(rows) > _DETAILS_PER_CAUSE:
        lines.append(Text(f"{'':30}and {len(rows) - _DETAILS_PER_CAUSE} more"))
    return lines


def _foot(report: Report) -> Lines:
    """Say what was recorded, what was not and why, what is doubtful, and what the recording cost."""
    missing = summary.sources_missing(report)
    lines = [Text("recorded  " + (", ".join(summary.sources_recorded(report)) or "nothing"), style="dim")]
    if missing:
        lines[0].append(f"; without {', '.join(missing)}")
    doubts = summary.trouble(report)
    lines += [Text("note      " + line, style="yellow") for line in doubts[:_MAX_TROUBLE]]
    if len(doubts) > _MAX_TROUBLE:
        lines.append(Text(f"note      and {len(doubts) - _MAX_TROUBLE} more in breakdown.json", style="yellow"))
    cost = summary.cost(report)
    return lines + ([Text("cost      recording took " + cost, style="dim")] if cost else [])


def _print(lines: Lines, width: int, *, color: bool) -> str:
    """Render lines as they are: nothing wraps, and the surroundings have no say."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=color,
        color_system="256" if color else None,
        no_color=not color,
        legacy_windows=False,
        _environ={},
    )
    for line in lines:
        line.truncate(width, overflow="ellipsis")
        line.rstrip()
        console.print(line, no_wrap=True, overflow="crop", crop=True, highlight=False, markup=False, emoji=False)
    return file.getvalue()
