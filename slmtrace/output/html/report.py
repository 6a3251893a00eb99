"""The report as one page: bars, the critical path, tables of all numbers, the state of the node, and the books."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...model.report import CauseShare, Report, WindowReport
from ...model.taxonomy import PHASE_MEANINGS, WindowKind
from ...units import format_bytes, format_count, format_ns, format_share
from .. import summary
from ..plain import plain
from .markup import details, page, phase_bar, swatch, table, text
from .path import path_picture

# Windows shown in full, and of these opened; the table of all windows has the others.
_MAX_WINDOWS, _OPEN_WINDOWS = 16, 3


def render_html(report: Report) -> str:
    """Render one self-contained page, below 1 MB."""
    body = [_head(report), *_findings(report), _legend(report), _overview(report)]
    for number, window in enumerate(report.windows[:_MAX_WINDOWS]):
        section = _window(window)
        title = f"{window.label}: {format_ns(window.total_ns)}"
        body.append(section if number < _OPEN_WINDOWS else details(title, section))
    body += [_recording(report), _certificate(report)]
    engine = " ".join(str(report.capture.get(key) or "") for key in ("engine", "model"))
    return page(f"slmtrace: {engine}", body)


def _head(report: Report) -> str:
    facts = " · ".join([*summary.node_facts(report), *summary.state_facts(report)])
    created = plain(report.capture.get("created") or "")
    lines = ["<h1>Why the first token took its time</h1>", f'<p class="soft">{text(facts)}</p>']
    lines += [f'<p class="soft">recorded {text(created)}</p>'] if created else []
    lines += [f'<p class="alert">{text(line)}</p>' for line in summary.trouble(report)[:3]]
    return "<header>\n" + "\n".join(lines) + "\n</header>"


def _findings(report: Report) -> list[str]:
    """Give the verdict of the windows that the summary shows; the sections of the others have their own."""
    return [
        f'<div class="panel"><strong>{text(shown.label)}: {format_ns(one.excess_ns)} too long, {text(one.id)}</strong>'
        f" ({swatch(one.phase)}{one.phase.label}.{one.cause.label}, confidence {text(one.confidence)})"
        f"<p>{text(one.evidence)}</p><p>Try: {text(one.recommendation)},"
        f" saves about {format_ns(one.predicted_gain_ns)}</p></div>"
        for shown in summary.shown_windows(report)
        for one in shown.window.findings
    ]


def _findings_of(window: WindowReport) -> str:
    rows = [
        [text(one.id), format_ns(one.excess_ns), text(one.evidence), text(one.recommendation), text(one.confidence)]
        for one in window.findings
    ]
    return table(["finding", "too long", "evidence", "try", "confidence"], rows, wide=["evidence", "try"])


def _legend(report: Report) -> str:
    phases = summary.shown_phases(report.windows)
    items = [f'<li title="{PHASE_MEANINGS[phase]}">{swatch(phase)}{phase.label}</li>' for phase in phases]
    return f'<ul class="legend">{"".join(items)}</ul>' if items else "<p>No window was recorded.</p>"


def _overview(report: Report) -> str:
    longest_ns = {
        kind: max((window.total_ns for window in report.windows if window.kind is kind), default=1)
        for kind in WindowKind
    }
    rows = [
        [
            text(window.label),
            format_ns(window.total_ns),
            phase_bar(window.phases, share_of_width=window.total_ns / longest_ns[window.kind], is_small=True),
        ]
        for window in report.windows
    ]
    return table(["window", "total", "phases"], rows, caption="All windows, the requests on one scale", wide=["phases"])


def _window(window: WindowReport) -> str:
    picture = path_picture(window)
    beside = ", ".join(f"{phase.label} {format_ns(ns)}" for phase, ns in sorted(window.overlapped.items()) if ns)
    parts = [
        f"<h2>{text(window.label)}: {format_ns(window.total_ns)}</h2>",
        f'<p class="soft">{text(window.note)}</p>' if window.note else "",
        phase_bar(window.phases),
        _findings_of(window),
        f"<h3>Stages</h3>\n{_stages(window)}",
        f"<h3>The critical path over time</h3>\n{picture}" if picture else "",
        f"<h3>Causes</h3>\n{_causes(window)}",
        f'<p class="soft">Beside the critical path: {beside}</p>' if beside else "",
        _floors(window),
    ]
    return "<section>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _stages(window: WindowReport) -> str:
    phases = summary.shown_phases([window])
    longest_ns = max((share.ns for share in window.stages), default=0)
    rows = [
        [
            share.stage.label,
            phase_bar(share.phases, share_of_width=share.ns / max(longest_ns, 1), is_small=True),
            format_ns(share.ns),
            *(_cell(share.phases.get(phase, 0)) for phase in phases),
        ]
        for share in window.stages
    ]
    totals = [_cell(window.phases.get(phase, 0)) for phase in phases]
    rows.append(["<strong>total</strong>", "", f"<strong>{format_ns(window.total_ns)}</strong>", *totals])
    return table(["stage", "by phase", "total", *(phase.label for phase in phases)], rows, wide=["by phase"])


def _cell(ns: int) -> str:
    return format_ns(ns) if ns else "-"


def _causes(window: WindowReport) -> str:
    rows = []
    for share in sorted(window.causes, key=lambda one: (-one.ns, one.cause)):
        name, time, _, count, size = summary.cause_cells(share, window)
        what = f"<span>{text(summary.where(share, 80))}</span>{_details_of(share)}"
        cells = [time, format_share(share.ns, window.total_ns), count, size, what]
        rows.append([f"{swatch(share.cause.phase)}{name}", *cells])
    return table(["cause", "time", "share", "count", "bytes", "what"], rows, wide=["what"])


def _details_of(share: CauseShare) -> str:
    parts = []
    for key in summary.DETAIL_LISTS:
        rows = [
            [text(row["name"]), format_ns(row["ns"]), format_count(row["count"]), format_bytes(row["bytes"])]
            for row in summary.detail_rows(share, key)
        ]
        parts.append(table([key, "time", "count", "bytes"], rows))
    return details("files, functions, kernels, ranges", "\n".join(part for part in parts if part))


def _floors(window: WindowReport) -> str:
    rows = [
        [text(one.name), format_ns(one.floor_ns), format_ns(one.actual_ns), text(one.basis)] for one in window.floors
    ]
    return table(["floor", "allowed by physics", "took", "basis"], rows, wide=["basis"])


def _recording(report: Report) -> str:
    sources = [
        [text(one.name), text(one.status), format_count(one.records), format_count(one.lost), text(one.reason)]
        for one in report.sources
    ]
    ledger = [
        [
            text(line.get("source")),
            *(format_count(int(line.get(key, 0))) for key in ("seen", "written", "decoded")),
            text(", ".join(f"{n} {cause}" for cause, n in sorted(summary.as_mapping(line.get("lost")).items())) or "-"),
        ]
        for line in report.ledger
    ]
    residual = summary.as_mapping(report.clock.get("residual_ns"))
    clocks = [[text(name), format_ns(int(ns))] for name, ns in sorted(residual.items())]
    cost = summary.cost(report)
    parts = [
        "<h2>The recording</h2>",
        table(["source", "status", "records", "lost", "reason"], sources, wide=["reason"]),
        "<h3>Ledger</h3>",
        table(["source", "seen", "written", "decoded", "lost"], ledger, wide=["lost"]),
        f"<h3>Clocks</h3>\n{table(['clock', 'residual'], clocks)}" if clocks else "",
        f"<p>The recording itself took {text(cost)}.</p>" if cost else "",
        "".join(f'<p class="soft">{text(line)}</p>' for line in report.quality),
    ]
    return "<section>\n" + "\n".join(part for part in parts if part) + "\n</section>"


def _certificate(report: Report) -> str:
    topics = [
        details(topic.replace("_", " "), _facts(summary.as_mapping(state)), is_open=False)
        for topic, state in sorted(report.state.items())
    ]
    return "<section>\n<h2>State of the node</h2>\n" + "\n".join(topics or ["<p>Not recorded.</p>"]) + "\n</section>"


def _facts(state: Mapping[str, Any]) -> str:
    """Tabulate a topic: each fact before and after the run, or as it is."""
    if "before" not in state:
        return table(["fact", "value"], [[text(key), text(value)] for key, value in _flatten(state)], wide=["value"])
    before, after = dict(_flatten(state["before"])), dict(_flatten(state.get("after", {})))
    rows = []
    for key in dict.fromkeys([*before, *after]):
        values = [before.get(key, "-"), after.get(key, "-")]
        shown = [text(value) for value in values]
        rows.append([text(key), *([f"<strong>{one}</strong>" for one in shown] if values[0] != values[1] else shown)])
    return table(["fact", "before", "after"], rows, wide=["before", "after"])


def _flatten(value: object, prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of a tree of facts by their path."""
    if isinstance(value, Mapping):
        return [leaf for key, one in sorted(value.items()) for leaf in _flatten(one, f"{prefix} {key}".strip())]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(not isinstance(one, Mapping | list) for one in value):
            return [(prefix, ", ".join(map(str, value)) or "none")]
        return [leaf for number, one in enumerate(value) for leaf in _flatten(one, f"{prefix} {number}".strip())]
    if isinstance(value, int) and not isinstance(value, bool) and prefix.endswith("bytes"):
        return [(prefix, format_bytes(value))]
    return [(prefix, "-" if value is None else str(value))]
