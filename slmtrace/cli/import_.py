"""`slmtrace import FILE`: explain what another tool recorded, as far as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from ..errors import UsageError
from .show import show_report


@click.command("import", short_help="Explain a trace of torch.profiler.")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE.pftrace", type=click.Path(path_type=Path), help="Write a timeline, too.")
@click.option("--range", "annotation", metavar="NAME", default="", help="A window for each annotation that begins so.")
def command(path: Path, output: Path | None, annotation: str) -> None:
    """Explain FILE, a JSON trace of torch.profiler (Kineto), gzipped or not.

    It has no evidence of the scheduler, of faults and of I/O; the report names what is missing.
    """
    if output is not None and output.exists():
        raise UsageError(f"{output} exists", hint="name another file with -o, or remove this one")
    from ..analysis import build_report  # noqa: PLC0415  (numpy and perfetto take longer to import)
    from ..foreign import read_kineto  # noqa: PLC0415
    from ..output.perfetto import write_perfetto  # noqa: PLC0415

    trace = read_kineto(path, annotation)
    # What the profiler itself cost is not in its trace.
    report = replace(build_report(trace), overhead={})
    show_report(report)
    if output is not None:
        write_perfetto(trace, report, output)
        click.echo(f"\ntimeline  {output}  (slmtrace view {output})")
