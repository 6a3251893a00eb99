"""`slmtrace import FILE`: explain what another tool recorded, as far as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from ..errors import UsageError
from .show import show_report


@click.command("import", short_help="Explain a trace of torch.profiler, or vLLM's spans.")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE.pftrace", type=click.Path(path_type=Path), help="Write a timeline, too.")
@click.option("--range", "annotation", metavar="NAME", default="", help="A window for each annotation that begins so.")
def command(path: Path, output: Path | None, annotation: str) -> None:
    """Explain FILE: a JSON trace of torch.profiler (Kineto), or vLLM's OpenTelemetry spans as OTLP JSON.

    Gzipped or not. They have no evidence of the scheduler, of faults and of I/O; the report names what is missing.
    """
    if output is not None and output.exists():
        raise UsageError(f"{output} exists", hint="name another file with -o, or remove this one")
    from ..analysis import build_report  # noqa: PLC0415  (numpy and perfetto take longer to import)
    from ..foreign import read_foreign  # noqa: PLC0415
    from ..output.perfetto import write_perfetto  # noqa: PLC0415

    trace = read_foreign(path, annotation)
    # What the other tool itself cost is not in its trace.
    report = replace(build_report(trace), overhead={})
    show_report(report)
    # The report names what is missing in half a line: here it is most of the story.
    for source in report.sources:
        if source.reason:
            click.echo(f"lacks     {source.name}: {source.reason}")
    if output is not None:
        write_perfetto(trace, report, output)
        click.echo(f"\ntimeline  {output}  (slmtrace view {output})")
