"""`slmtrace diff A B`: what moved between two recordings, or between repeats of both."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import click

from ..errors import UsageError
from .report import choose_windows, read_report
from .show import FORMATS, MAX_WIDTH, MIN_WIDTH


@click.command("diff", short_help="Say what moved between two recordings.")
@click.argument("paths", metavar="A B [A2 B2]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--window", metavar="load|ttft|ttft:N", help="Compare this window only; ttft means all requests.")
def command(paths: tuple[Path, ...], form: str, window: str | None) -> None:
    """Say what moved from A to B: captures, or .pftrace files with a breakdown in them.

    More pairs are repeats, and tell a change from noise. What is unlike in the state of the nodes comes first.
    """
    if len(paths) < 2 or len(paths) % 2:
        raise UsageError("diff compares pairs of recordings", hint="slmtrace diff A B, or slmtrace diff A B A2 B2")
    from ..output.diff import (  # noqa: PLC0415  (numpy takes longer to import)
        compare,
        render_diff_json,
        render_diff_markdown,
        render_diff_text,
    )

    reports = [read_report(path) for path in paths]
    if window is not None:
        reports = [replace(report, windows=choose_windows(report.windows, window)) for report in reports]
    comparison = compare(reports[0::2], reports[1::2])
    if form == "json":
        click.echo(render_diff_json(comparison), nl=False)
    elif form == "markdown":
        click.echo(render_diff_markdown(comparison), nl=False)
    elif form == "html":
        from ..output.html import render_diff_html  # noqa: PLC0415

        click.echo(render_diff_html(comparison), nl=False)
    else:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else MAX_WIDTH
        click.echo(render_diff_text(comparison, width=max(MIN_WIDTH, min(columns, MAX_WIDTH))), nl=False)
