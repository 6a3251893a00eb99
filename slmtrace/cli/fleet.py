"""`slmtrace fleet`: certificates of many nodes, and which of them are unlike the others."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import CheckFailed
from . import options
from .paths import require_parent
from .show import say

_output = click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default="fleet.parquet",
    show_default=True,
    help="The table to write, for fleet compare.",
)


@click.group("fleet", short_help="Certify and compare many nodes.")
def command() -> None:
    """Certify the nodes of a cluster, gather certificates made elsewhere, and find the nodes that are off."""


@command.command("run")
@click.option("--address", metavar="HOST:PORT", help="The Ray cluster.  [default: the one this node is in]")
@click.option(
    "--limit",
    "limit_s",
    metavar="S",
    type=click.FloatRange(1),
    default=120.0,
    show_default=True,
    help="Seconds that each node has; then it counts as hung.",
)
@click.option(
    "--retries",
    metavar="N",
    type=click.IntRange(0, 10),
    default=1,
    show_default=True,
    help="Ask a node that failed or hung so often again.",
)
@options.model
@click.option("--privileged", is_flag=True, help="Let eBPF record, where the nodes' workers may.")
@_output
def run(address: str | None, limit_s: float, retries: int, model_name: str, privileged: bool, output: Path) -> int:
    """Certify each alive node of a Ray cluster, and write a row for every node, dead and hung ones too.

    A model's directory must be on each node.
    """
    from ..studies.fleet import write_parquet  # noqa: PLC0415  (numpy takes longer to import)
    from ..studies.fleet_ray import CERTIFY, run_fleet  # noqa: PLC0415

    arguments = [*CERTIFY, "--model", model_name, *([] if privileged else ["--probes", "ranges,proc"])]
    rows = run_fleet(address, arguments, limit_s=limit_s, retries=retries, say=say)
    write_parquet(rows, output)
    return _compare((output,), None)


@command.command("collect")
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_output
def collect(directory: Path, output: Path) -> int:
    """Read the certificates in DIR, one a node: srun sh -c 'slmtrace certify --json > DIR/$(hostname).json'."""
    from ..studies.fleet import collect_rows, write_parquet  # noqa: PLC0415

    write_parquet(collect_rows(directory), output)
    return _compare((output,), None)


@command.command("compare")
@click.argument("tables", metavar="FILE...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page with a heat map.")
def compare(tables: tuple[Path, ...], html: Path | None) -> int:
    """Compare each node with the others of its kind; four make a kind that can be compared.

    The exit code is 5 if a node is off, or its certificate fails, or there is none.
    """
    return _compare(tables, html)


def _compare(tables: tuple[Path, ...], html: Path | None) -> int:
    from ..studies.fleet import read_parquet  # noqa: PLC0415
    from ..studies.fleet_output import render_fleet_html, render_fleet_text  # noqa: PLC0415
    from ..studies.outliers import compare_fleet  # noqa: PLC0415

    require_parent(html, "--html")
    fleet = compare_fleet(read_parquet(tables))
    if html is not None:
        html.write_text(render_fleet_html(fleet), encoding="utf-8")
    click.echo(render_fleet_text(fleet), nl=False)
    return CheckFailed.exit_code if fleet.outliers or fleet.failed or fleet.missing else 0
