"""One message on stderr for every failure: what happened, and what to do about it."""

from __future__ import annotations

import os
import traceback

import click

from ..errors import SlmtraceError
from ..output.plain import plain

_MAX_LINE = 1000


def print_failure(message: str, error: BaseException, *, hint: str = "") -> None:
    """Print a failure; SLMTRACE_DEBUG adds where it came from."""
    click.echo(f"slmtrace: {harmless(message)}", err=True)
    if hint:
        click.echo(f"  try: {harmless(hint)}", err=True)
    if os.environ.get("SLMTRACE_DEBUG"):
        click.echo("".join(traceback.format_exception(error)), err=True)


def harmless(text: str) -> str:
    """Return a message with the names in it made harmless to a terminal; its lines stay."""
    return "\n".join(plain(line, _MAX_LINE) for line in text.split("\n"))


def describe_error(error: Exception) -> str:
    """Return what an error says; the type too, where it was not raised for users."""
    return str(error) if isinstance(error, SlmtraceError) else f"{type(error).__name__}: {error}"
