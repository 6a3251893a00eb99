"""Reports and comparisons as one self-contained page each: no network, light and dark, on paper and on a telephone."""

from .diff import render_diff_html
from .report import render_html

__all__ = ["render_diff_html", "render_html"]
