"""`slmtrace bundle PATH -o FILE.zip`: one file for a bug report, without anything private."""

from __future__ import annotations

from pathlib import Path

import click

from ..capture.directory import Capture
from ..errors import CheckFailed, UsageError
from ..units import format_bytes

_MAX_SHOWN = 10


@click.command("bundle", short_help="Make one file for a bug report.")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE.zip", type=click.Path(path_type=Path), required=True)
@click.option("--hash-paths", is_flag=True, help="Replace every file's name by a hash, well-known ones too.")
@click.option("--verify", is_flag=True, help="Search the bundle for what must not be in it; exit code 5 if it is.")
def command(path: Path, output: Path, hash_paths: bool, verify: bool) -> None:
    """Pack the capture at PATH: timeline, breakdown, report, certificate, ledger.

    Only names on lists of public ones go along; no environment, arguments, prompts, directories or user's names do.
    """
    if path.is_file():
        raise UsageError(f"{path}: a bundle is made anew from a capture", hint="name the capture directory")
    if output.exists():
        raise UsageError(f"{output} exists", hint="name another file with -o, or remove this one")
    from ..analysis import analyze  # noqa: PLC0415  (numpy and perfetto take longer to import)
    from ..bundle import find_secrets, make_bundle, write_bundle  # noqa: PLC0415

    content, dropped = make_bundle(*analyze(Capture.open(path)), hash_paths=hash_paths)
    leaks = find_secrets(content, dropped) if verify else []
    if leaks:
        shown = "\n  ".join(map(str, leaks[:_MAX_SHOWN]))
        raise CheckFailed(f"{len(leaks)} findings, nothing was written:\n  {shown}", hint="report it without the names")
    write_bundle(content, output)
    click.echo(f"bundle    {output}  ({format_bytes(len(content))}, {len(dropped)} names left out)")
    if verify:
        click.echo("verified  no secret and no name that was left out is in it")
