"""A sweep as text and as a page: the medians of its points, with the phases that say why a curve bends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..model.taxonomy import Phase
from ..output.html.markup import page, phase_bar, swatch, table, text
from ..units import format_ns
from .chart import line_chart
from .recommend import saturation_point
from .recommendation import Recommendation
from .sweep import Row, median_rows

_WINDOWS = ("load", "ttft_first", "ttft_steady")
_NOT_SHOWN = frozenset({"point", "n_repeats", "repeat", "n_requests"})


def render_sweep_text(kind: str, rows: Sequence[Row], recommendations: Sequence[Recommendation]) -> str:
    """Render a table of medians, the largest phase of each window that bends, and what to do."""
    middle = median_rows(sorted(rows, key=_axis))
    columns = _columns(middle)
    head = ["point", "repeats", *columns]
    cells = [[row["point"], str(row["n_repeats"]), *(_number(row.get(name)) for name in columns)] for row in middle]
    widths = [max(len(line[n]) for line in [head, *cells]) for n in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [head, *cells]]
    lines += [f"{name}: {_why(middle, name)}" for name in _WINDOWS if _why(middle, name)]
    saturation = saturation_point(rows)
    lines += [f"throughput saturates at concurrency {saturation}"] if saturation is not None else []
    lines += [one.text for one in recommendations]
    return "\n".join(lines) + "\n"


def render_sweep_html(kind: str, rows: Sequence[Row], recommendations: Sequence[Recommendation]) -> str:
    """Render one self-contained page."""
    middle = median_rows(sorted(rows, key=_axis))
    columns = _columns(middle)
    legend = "".join(f"<li>{swatch(phase)}{phase.label}</li>" for phase in Phase)
    body = [f"<h1>Sweep: {text(kind)}</h1>", render_sweep_svg(rows), f'<ul class="legend">{legend}</ul>']
    for name in _WINDOWS:
        split = [(row, _phases(row, name)) for row in middle if any(_phases(row, name).values())]
        longest = max((sum(phases.values()) for _, phases in split), default=1)
        bars = [
            [
                text(row["point"]),
                format_ns(sum(phases.values())),
                phase_bar(phases, share_of_width=sum(phases.values()) / longest, is_small=True),
            ]
            for row, phases in split
        ]
        body.append(table([name, "time", "phases, each the median of its own"], bars))
    numbers = [[text(row["point"]), *(text(_number(row.get(name))) for name in columns)] for row in middle]
    body.append(table(["point", *columns], numbers, caption="medians over the repeats"))
    body += [f'<p class="panel">{text(one.text)}</p>' for one in recommendations]
    return page(f"slmtrace sweep: {kind}", body)


def render_sweep_svg(rows: Sequence[Row]) -> str:
    """Draw the sweep's main times, every repeat a dot."""
    names = [
        name for name in ("ttft_steady_s", "ttft_p50_s", "ttft_p95_s", "ttft_p99_s") if any(name in r for r in rows)
    ]
    names = names if any("ttft_p50_s" in row for row in rows) else names + _present(rows, "gen_latency_s")
    if any("cold_load_real_s" in row for row in rows):
        names = [*_present(rows, "cold_load_real_s"), *_present(rows, "warm_load_real_s")]
        names += _present(rows, "ttft_first_s")
    series: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for row in rows:
        for name in names:
            if name in row:
                series[name].setdefault(row["point"].partition("=")[2], []).append(row[name])
    order = list(dict.fromkeys(row["point"].partition("=")[2] for row in sorted(rows, key=_axis)))
    ordered = {name: {label: points[label] for label in order if label in points} for name, points in series.items()}
    axis = rows[0]["point"].partition("=")[0] if rows else ""
    return line_chart(axis, ordered)


def _axis(row: Row) -> tuple[float, str]:
    """Return where a row lies on the axis: by number where that is one."""
    word = row["point"].partition("=")[2]
    return (float(word), "") if word.isdecimal() else (0.0, word)


def _present(rows: Sequence[Row], name: str) -> list[str]:
    return [name] if any(name in row for row in rows) else []


def _columns(middle: Sequence[Row]) -> list[str]:
    """Return the names of what was measured, without the split by phases."""
    splits = {f"{name}_{phase.label}_s" for name in _WINDOWS for phase in Phase}
    values = {key for row in middle for key in row if f"{key}=" in row["point"]}
    return [
        name
        for name in dict.fromkeys(name for row in middle for name in row)
        if name not in splits and name not in _NOT_SHOWN and name not in values
    ]


def _phases(row: Row, window: str) -> Mapping[Phase, int]:
    return {phase: round(1e9 * float(row.get(f"{window}_{phase.label}_s", 0.0))) for phase in Phase}


def _why(middle: Sequence[Row], window: str) -> str:
    """Return which phase grows most from the fastest point to the slowest."""
    totals = [(sum(_phases(row, window).values()), row) for row in middle]
    (low_ns, low), (high_ns, high) = min(totals, key=lambda one: one[0]), max(totals, key=lambda one: one[0])
    if not low_ns or high_ns == low_ns:
        return ""
    before, after = _phases(low, window), _phases(high, window)
    phase = max(Phase, key=lambda one: after[one] - before[one])
    grown = format_ns(after[phase] - before[phase])
    return (
        f"{format_ns(low_ns)} ({low['point']}) to {format_ns(high_ns)} ({high['point']}), "
        f"{grown} of the difference {phase.label}"
    )


def _number(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
