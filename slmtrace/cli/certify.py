"""`slmtrace certify`: the pre-flight check of a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..builtin import RunRequest
from ..errors import CheckFailed
from ..probes.base import RecordOptions
from ..recording.ownership import give_to_caller, topmost_missing
from ..recording.progress import Progress
from . import options
from .paths import require_directory
from .recording import choose_probes
from .show import say


@click.command("certify", short_help="Say whether this node is fit for a big model.")
@click.option("--engine", type=click.Choice(["hf"]), default="hf", show_default=True)
@options.model
@click.option(
    "--baseline",
    metavar="FILE",
    type=click.Path(exists=True, path_type=Path),
    help="Compare with this certificate of a good node.",
)
@click.option(
    "--limit",
    "limit_s",
    metavar="SECONDS",
    type=click.FloatRange(min=10),
    default=60,
    show_default=True,
    help="End what has not ended by then; a large model needs more.",
)
@options.probes
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write certificate.json and certificate.html here.",
)
@options.emit
@click.option("--json", "is_json", is_flag=True, help="Print the certificate itself, for fleet collect.")
def command(is_json: bool, output: Path | None, baseline: Path | None, limit_s: float, **arguments: Any) -> int:
    """Load a small model cold and warm, ask it, and hold what was measured against physics and a baseline.

    The exit code is 0 for pass and warn, and 5 for fail: a Slurm prolog or an init container can act on it.
    """
    require_directory(output, "-o")
    from ..studies import certificate, certificate_output  # noqa: PLC0415  (numpy takes longer to import)
    from ..studies.recommendation import emit  # noqa: PLC0415

    before = certificate.read_certificate(baseline) if baseline is not None else None
    probes = choose_probes(RecordOptions(), arguments["probes"])
    request = RunRequest(engine=arguments["engine"], model_name=arguments["model_name"])
    progress = Progress()
    try:
        made = certificate.certify(request, probes, progress, before, say, limit_s)
    finally:
        progress.clear()
    if output is not None:
        new = topmost_missing(output)
        output.mkdir(parents=True, exist_ok=True)
        (output / "certificate.json").write_text(certificate.render_certificate_json(made), encoding="utf-8")
        (output / "certificate.html").write_text(certificate_output.render_certificate_html(made), encoding="utf-8")
        give_to_caller(new)
    if arguments["snippet_form"]:
        click.echo(emit(made.recommendations, arguments["snippet_form"]), nl=False)
    else:
        render = certificate.render_certificate_json if is_json else certificate_output.render_certificate_text
        click.echo(render(made), nl=False)
    return CheckFailed.exit_code if made.verdict == "fail" else 0
