"""`slmtrace sweep`: how load time and time to first token depend on one thing, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..builtin import RunRequest, default_probes
from ..errors import UsageError
from ..probes.base import RecordOptions
from ..recording.ownership import give_to_caller
from ..recording.progress import Progress
from ..studies.kind import Order
from ..studies.plan import KINDS, find_kind, plan_sweep
from . import options
from .paths import require_directory
from .recording import default_output
from .show import say

_WIDTH = max(len(kind.name) for kind in KINDS)
_HELP = f"""Record each point of KIND several times, turn by turn, and write rows.csv, curve.svg and sweep.html.

\b
{chr(10).join(f"{kind.name:{_WIDTH}}  {kind.help}" for kind in KINDS)}

A sweep that was ended goes on when it is started again with the same -o.
"""


@click.command("sweep", help=_HELP, short_help="Draw a curve, with the phases that bend it.")
@click.argument("kind", metavar="KIND", type=click.Choice([kind.name for kind in KINDS]))
@click.option("--engine", type=click.Choice(["hf", "vllm"]), help="[default: the one that the kind needs, else hf]")
@options.model
@options.prompt_tokens
@click.option("--requests", "n_requests", metavar="N", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--values", metavar="N,N,...", default="", help="The points, in place of the usual ones.")
@click.option("--repeats", metavar="N", type=click.IntRange(1, 100), default=5, show_default=True, help="Runs a point.")
@click.option("--seed", metavar="N", type=int, default=0, show_default=True, help="Decides the order of the runs.")
@click.option(
    "--apply",
    "may_apply",
    is_flag=True,
    help="Change settings of this node; what was found is put back, also after a kill.",
)
@options.tier
@options.emit
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write here, or go on with a sweep that is there.",
)
def command(kind: str, output: Path | None, **arguments: Any) -> int:
    """Record, write, recommend."""
    require_directory(output, "-o")
    from ..studies import density, recommend, recommendation, repeat, sweep, sweep_output  # noqa: PLC0415  (numpy takes longer to import)

    request = RunRequest(
        engine=arguments["engine"] or find_kind(kind).engine or "hf",
        model_name=arguments["model_name"],
        n_prompt_tokens=arguments["n_prompt_tokens"],
        n_requests=arguments["n_requests"],
        cache="warm",
    )
    points = plan_sweep(kind, Order(request, _numbers(arguments["values"]), arguments["may_apply"]))
    probes, progress = default_probes(RecordOptions(tier=arguments["tier"])), Progress()
    directory = output or default_output(f"sweep-{kind}", Path(request.model_name).name)
    try:
        rows = sweep.run_sweep(
            kind,
            points,
            directory,
            lambda point: repeat.run_once(point.whole_request, probes, progress),
            repeats=arguments["repeats"],
            seed=arguments["seed"],
            say=say,
        )
    finally:
        progress.clear()
        give_to_caller(directory)
    found = recommend.recommend(points, rows) + density.fit_replicas(rows, density.read_node())
    sweep.write_tables(rows, directory)
    (directory / "curve.svg").write_text(sweep_output.render_sweep_svg(rows), encoding="utf-8")
    (directory / "sweep.html").write_text(sweep_output.render_sweep_html(kind, rows, found), encoding="utf-8")
    give_to_caller(directory)
    if arguments["snippet_form"]:
        click.echo(recommendation.emit(found, arguments["snippet_form"]), nl=False)
    else:
        click.echo(sweep_output.render_sweep_text(kind, rows, found), nl=False)
        click.echo(f"\nsweep     {directory}")
    return 0


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers) or len(set(numbers)) < len(numbers):
        raise UsageError(f"--values {text} means nothing", hint="use different whole numbers, such as 128,256,512")
    return numbers
