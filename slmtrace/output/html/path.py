"""The critical path over time as a picture: one row a stage, coloured by phase, however many segments there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...model.events import Ints
from ...model.report import WindowReport
from ...model.segments import Segments
from ...model.taxonomy import Cause, Phase, Stage
from ...units import format_ns

Floats = NDArray[np.floating]
_COLUMNS = 720
_LABEL_WIDTH, _ROW_HEIGHT, _AXIS_HEIGHT = 100, 18, 18
_TICKS = 4
_PHASE_OF_CAUSE = np.zeros(256, np.int64)
for _cause in Cause:
    _PHASE_OF_CAUSE[_cause] = _cause.phase


def path_picture(window: WindowReport) -> str:
    """Draw the path; '' without segments, which only a report made from a capture has."""
    segments = window.segments
    if segments is None or not len(segments) or window.total_ns <= 0:
        return ""
    stages = np.unique(segments.stage).tolist()
    height = _ROW_HEIGHT * len(stages) + _AXIS_HEIGHT
    width = _LABEL_WIDTH + _COLUMNS
    rows = [_row(window, segments, stage, number) for number, stage in enumerate(stages)]
    words = (
        f"critical path of {window.label} over {format_ns(window.total_ns)}, a row a stage; the table has the numbers"
    )
    return "\n".join(
        [
            f'<div class="scroll" tabindex="0"><svg class="path" viewBox="0 0 {width} {height}" role="img"',
            f' aria-label="{words}">',
            _axis(window.total_ns, height),
            *rows,
            "</svg></div>",
        ]
    )


def _row(window: WindowReport, segments: Segments, stage: int, number: int) -> str:
    top = number * _ROW_HEIGHT
    label = f'<text x="2" y="{top + 13}">{Stage(stage).label}</text>'
    phases = _phase_by_column(window, segments, stage)
    return label + "".join(_shapes(phases, phase, top + 2) for phase in Phase)


def _phase_by_column(window: WindowReport, segments: Segments, stage: int) -> Ints:
    """Return for each column of the picture the phase that has most of the stage's time in it, or -1."""
    spent = np.zeros((len(Phase), _COLUMNS))
    for phase in Phase:
        rows = (segments.stage == stage) & (_PHASE_OF_CAUSE[segments.cause] == phase)
        start, end = segments.start_ns[rows] - window.start_ns, segments.end_ns[rows] - window.start_ns
        # The time up to an edge, as a sum of ramps: at each edge, how much of each segment lies before it.
        edges = np.arange(_COLUMNS + 1) * (window.total_ns / _COLUMNS)
        order_start, order_end = np.sort(start), np.sort(end)
        spent[phase] = np.diff(_ramps(order_start, edges) - _ramps(order_end, edges))
    best = spent.argmax(axis=0)
    return np.where(spent.max(axis=0) > 0.01 * window.total_ns / _COLUMNS, best, -1)


def _ramps(sorted_ns: Ints, edges: Floats) -> Floats:
    """Return for each edge the sum of (edge - t) over the times t before it."""
    count = np.searchsorted(sorted_ns, edges)
    sums: Floats = np.append(0.0, np.cumsum(sorted_ns, dtype=np.float64))
    return count * edges - sums[count]


def _shapes(phases: Ints, phase: Phase, top: int) -> str:
    is_here = np.concatenate([[False], phases == phase, [False]])
    edges = np.flatnonzero(is_here[1:] != is_here[:-1])
    if not len(edges):
        return ""
    height = _ROW_HEIGHT - 4
    parts = [
        f"M{_LABEL_WIDTH + first} {top}h{last - first}v{height}h-{last - first}z"
        for first, last in edges.reshape(-1, 2).tolist()
    ]
    return f'<path style="fill:var(--{phase.label})" d="{"".join(parts)}"><title>{phase.label}</title></path>'


def _axis(total_ns: int, height: int) -> str:
    marks = []
    for tick in range(_TICKS + 1):
        x = _LABEL_WIDTH + _COLUMNS * tick // _TICKS
        anchor = "start" if tick == 0 else "end" if tick == _TICKS else "middle"
        shown = format_ns(total_ns * tick // _TICKS) if tick else "0"
        marks.append(f'<line x1="{x}" x2="{x}" y1="0" y2="{height - _AXIS_HEIGHT}"/>')
        marks.append(f'<text x="{x}" y="{height - 5}" text-anchor="{anchor}">{shown}</text>')
    return "".join(marks)
