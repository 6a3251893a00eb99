"""A small line chart as SVG: every repeat a dot, the medians a line; for a page, or a file of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

_WIDTH, _HEIGHT = 640, 300
_LEFT, _BOTTOM, _TOP, _RIGHT = 70, 40, 16, 16
_COLOURS = ("#3b82c4", "#d97706", "#3f9d4f", "#b5479b")
_TICKS = 4
# Of a letter, on average; and by how many degrees long labels slope.
_LETTER, _SLOPE = 7, 60


def line_chart(x_name: str, series: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Draw each series, whose times in seconds come by the label of their place on the axis, in its order.

    The places are evenly spaced, since sweeps double, and since some axes hold words.
    """
    labels = list(dict.fromkeys(label for points in series.values() for label in points))
    highest = max((value for points in series.values() for values in points.values() for value in values), default=0.0)
    if not labels or highest <= 0:
        return ""
    across = {label: _LEFT + (_WIDTH - _LEFT - _RIGHT) * (n + 0.5) / len(labels) for n, label in enumerate(labels)}

    def height(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * value / highest

    longest = max(map(len, labels))
    is_tight = longest * _LETTER > (_WIDTH - _LEFT - _RIGHT) / len(labels)
    slope_height = round(longest * _LETTER * math.sin(math.radians(_SLOPE))) if is_tight else 0
    parts = [_axes(x_name, across, highest, height(0.0), height(highest), slope_height)]
    for number, (name, points) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        middle = " ".join(f"{across[label]:.1f},{height(median(values)):.1f}" for label, values in points.items())
        parts.append(f'<polyline points="{middle}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across[label]:.1f}" cy="{height(value):.1f}" r="2.5" fill="{colour}"/>'
            for label, values in points.items()
            for value in values
        ]
        parts.append(f'<text x="{_LEFT + 8}" y="{_TOP + 14 * (number + 1)}" fill="{colour}">{escape(name)}</text>')
    words = escape(f"{', '.join(series)} against {x_name}; the table has the numbers", quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + slope_height}" role="img" '
        f'aria-label="{words}" font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _axes(
    x_name: str, across: Mapping[str, float], highest: float, low_y: float, high_y: float, slope_height: int
) -> str:
    """Draw both axes; labels too long to stand side by side slope upwards, over a height of so much."""
    marks = []
    for tick in range(_TICKS + 1):
        y = low_y + (high_y - low_y) * tick / _TICKS
        marks.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>')
        shown = f"{highest * tick / _TICKS:.3g} s"
        marks.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#888">{shown}</text>')
    for label, x in across.items():
        slope = f'text-anchor="end" transform="rotate(-{_SLOPE} {x:.1f} {low_y + 16})"'
        turned = slope if slope_height else 'text-anchor="middle"'
        marks.append(f'<text x="{x:.1f}" y="{low_y + 16}" {turned} fill="#888">{escape(label)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    marks.append(
        f'<text x="{middle}" y="{low_y + 32 + slope_height}" text-anchor="middle" fill="#888">{escape(x_name)}</text>'
    )
    return "".join(marks)
