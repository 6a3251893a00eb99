"""What moved between two recordings, or two sets of them, and whether they may be compared at all."""

from .compare import Comparison, compare
from .render import render_diff_markdown, render_diff_text
from .to_json import render_diff_json

__all__ = ["Comparison", "compare", "render_diff_json", "render_diff_markdown", "render_diff_text"]
