"""`slmtrace report PATH`: explain a capture again, or a trace that carries its breakdown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from ..capture.directory import Capture
from ..errors import UsageError
from ..model.report import Report, WindowReport
from ..model.taxonomy import WindowKind
from . import options
from .show import REPORT_FORMATS, show_report, write_report


@click.command("report", short_help="Explain a capture or a trace.")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(REPORT_FORMATS), default="text", show_default=True)
@click.option(
    "--window", metavar="load|ttft|ttft:N", help="Show this window only, and as text in full; ttft means all requests."
)
@options.emit
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write here, not to stdout.")
def command(path: Path, form: str, window: str | None, snippet_form: str | None, output: Path | None) -> None:
    """Explain PATH, a capture directory or a .pftrace with a breakdown in it."""
    if form == "parquet" and output is None:
        raise UsageError("a Parquet file is not for a terminal", hint="name a file with -o FILE.parquet")
    report = read_report(path)
    in_full = None
    if window is not None:
        report = replace(report, windows=choose_windows(report.windows, window))
        in_full = report.windows[0] if len(report.windows) == 1 else None
    if snippet_form is not None:
        from ..studies.advice import advise  # noqa: PLC0415
        from ..studies.recommendation import emit  # noqa: PLC0415

        click.echo(emit(advise(report), snippet_form), nl=False)
    elif output is None:
        show_report(report, form, in_full)
    else:
        write_report(report, form, output, in_full)


def read_report(path: Path) -> Report:
    """Return the report of a capture, made anew from its raw logs, or the one embedded in a trace.

    Raises:
        CaptureError: there is neither at `path`.
    """
    if path.is_file():
        from ..output.perfetto.embedded import read_embedded_report  # noqa: PLC0415

        return read_embedded_report(path)
    capture = Capture.open(path)
    from ..analysis import analyze  # noqa: PLC0415

    return analyze(capture)[1]


def choose_windows(windows: list[WindowReport], wanted: str) -> list[WindowReport]:
    """Return the windows that --window means.

    Raises:
        UsageError: it means nothing, or no such window was recorded.
    """
    name, colon, number = wanted.partition(":")
    kinds = {kind.label: kind for kind in WindowKind}
    if name not in kinds or (colon and (name != WindowKind.TTFT.label or not number.isdecimal())):
        raise UsageError(f"--window {wanted} means nothing", hint="use load, ttft or ttft:N, such as ttft:0")
    chosen = [w for w in windows if w.kind is kinds[name] and (not colon or w.index == int(number))]
    if not chosen:
        recorded = ", ".join(window.label.replace(" ", ":") for window in windows) or "none"
        raise UsageError(f"there is no window {wanted}", hint=f"recorded are: {recorded}")
    return chosen
