"""Print a report, or what goes on: the place where width and colour are decided."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import click

from ..errors import UsageError
from ..model.report import Report, WindowReport
from .failure import harmless

FORMATS = ("text", "markdown", "json", "html")
REPORT_FORMATS = (*FORMATS, "prometheus", "otlp", "parquet")
# One renderer is enough for one command: rich alone takes longer to import than all of ours.
_RENDERERS = {
    "markdown": ("markdown", "render_markdown"),
    "json": ("json_", "render_json"),
    "html": ("html", "render_html"),
    "prometheus": ("prometheus", "render_prometheus"),
    "otlp": ("otlp", "render_otlp"),
}
MIN_WIDTH, MAX_WIDTH = 60, 120


def say(text: str) -> None:
    """Print on stderr what a study does next."""
    click.echo(f"slmtrace: {harmless(text)}", err=True)


def show_report(
    report: Report, form: str = "text", window: WindowReport | None = None, *, to_stderr: bool = False
) -> None:
    """Print a report in one of REPORT_FORMATS, as text that of `window` in full.

    Text is coloured and fitted if a terminal reads it.
    """
    text = _render(report, form, window, sys.stderr if to_stderr else sys.stdout)
    click.echo(text.rstrip("\n"), err=to_stderr, color=True)


def write_report(report: Report, form: str, path: Path, window: WindowReport | None = None) -> None:
    """Write a report to a new file, as it would be shown where no terminal is; Parquet only goes to files.

    Raises:
        UsageError: the file is there already, or cannot be written.
    """
    content = _render_parquet(report) if form == "parquet" else _render(report, form, window, None).encode()
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError as error:
        raise UsageError(f"{path} exists", hint="name another file with -o, or remove this one") from error
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}", hint="name another file with -o") from error


def _render_parquet(report: Report) -> bytes:
    from ..output.parquet import render_parquet  # noqa: PLC0415

    return render_parquet(report)


def _render(report: Report, form: str, window: WindowReport | None, stream: object) -> str:
    if form in _RENDERERS:
        module, function = _RENDERERS[form]
        render: Callable[[Report], str] = getattr(importlib.import_module(f"..output.{module}", __package__), function)
        return render(report)
    from ..output.text import render_text  # noqa: PLC0415

    is_terminal = bool(getattr(stream, "isatty", lambda: False)())
    width = max(MIN_WIDTH, min(shutil.get_terminal_size().columns, MAX_WIDTH)) if is_terminal else 100
    # https://no-color.org
    return render_text(report, window, width=width, color=is_terminal and not os.environ.get("NO_COLOR"))
