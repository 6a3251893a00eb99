"""`slmtrace check`: a regression gate for CI."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..builtin import RunRequest, default_probes
from ..engines.vllm import VllmChoices
from ..errors import CheckFailed, UsageError
from ..model.report import Report
from ..probes.base import RecordOptions
from ..recording.progress import Progress
from ..studies.sequential import MAX_REPEATS
from . import options
from .paths import require_directory, require_parent
from .show import say

# Of so few, one or two that something disturbed hide no change from the ranks.
_BASELINE_RUNS = 16


class _Percent(click.ParamType[float]):
    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            share = float(str(value).strip().removesuffix("%")) / 100
        except ValueError:
            share = 0.0
        if not 0.001 <= share <= 10:
            self.fail(f"{value} is no percentage between 0.1% and 1000%", param, ctx)
        return share


@click.command("check", short_help="Fail if a run is slower than its baseline.")
@click.option(
    "--baseline",
    "baselines",
    metavar="PATH",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Compare with these runs.",
)
@click.option(
    "--write-baseline",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help=f"Record a baseline of {_BASELINE_RUNS} runs, and end.",
)
@click.option(
    "--against-python",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Compare with runs under this Python, such as that of another virtual environment.",
)
@click.option(
    "--against-env",
    "against_env",
    metavar="NAME=VALUE",
    multiple=True,
    help="Compare with runs that have this variable set.",
)
@click.option(
    "--max-regression",
    metavar="PERCENT",
    type=_Percent(),
    default=0.05,
    show_default="5%",
    help="The slowdown that must be found.",
)
@click.option(
    "--max-repeats",
    metavar="N",
    type=click.IntRange(4, MAX_REPEATS),
    default=32,
    show_default=True,
    help="Give up undecided after so many runs.",
)
@options.engine
@options.model
@options.prompt_tokens
@click.option(
    "--requests",
    "n_requests",
    metavar="N",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="Of each run: the first, and those whose median is compared.",
)
@click.option(
    "--cache",
    type=click.Choice(["warm", "cold"]),
    default="warm",
    show_default=True,
    help="Whether the weights are in the page cache at the start of each run.",
)
@options.tier
@click.option("--junit", metavar="FILE", type=click.Path(path_type=Path), help="Write the verdict as JUnit XML.")
@click.option("--summary", metavar="FILE", type=click.Path(path_type=Path), help="Append it as GitHub Markdown.")
@click.option("--keep", metavar="DIR", type=click.Path(path_type=Path), help="Keep the breakdown of each run here.")
def command(baselines: tuple[Path, ...], write_baseline: Path | None, **arguments: Any) -> int:
    """Repeat a built-in run until it is clear whether it is slower than its baseline; exit with 5 if it is.

    A baseline is four or more breakdowns of the same run: PATH is a breakdown.json, or a directory of them as
    --write-baseline makes it. With --against-python or --against-env the baseline is recorded now, turn by turn,
    which no drift of the machine can mislead. The exit code is 0 also where noise left a window undecided.
    """
    require_directory(write_baseline, "--write-baseline")
    require_directory(arguments["keep"], "--keep")
    require_parent(arguments["junit"], "--junit")
    require_parent(arguments["summary"], "--summary")
    request, progress = _request(arguments), Progress()
    against = _against(request, arguments["against_python"], arguments["against_env"])
    if sum((bool(baselines), write_baseline is not None, against is not None)) != 1:
        raise UsageError(
            "check needs one of --baseline, --write-baseline and --against-...",
            hint="slmtrace check --write-baseline base/, then slmtrace check --baseline base/",
        )
    from ..studies import baseline, check, check_output  # noqa: PLC0415  (numpy and perfetto take longer to import)

    if write_baseline is not None:
        return _write_baseline(write_baseline, request, progress, arguments)
    result = check.check(
        baseline.read_baseline(baselines) if baselines else [],
        _recorder(request, progress, arguments, "now"),
        max_regression=arguments["max_regression"],
        max_repeats=arguments["max_repeats"],
        record_baseline=_recorder(against, progress, arguments, "baseline") if against else None,
        say=say,
    )
    click.echo(check_output.render_check_text(result), nl=False)
    if arguments["junit"] is not None:
        arguments["junit"].write_text(check_output.render_check_junit(result), encoding="utf-8")
    if arguments["summary"] is not None:
        with arguments["summary"].open("a", encoding="utf-8") as file:
            file.write(check_output.render_check_summary(result))
    return CheckFailed.exit_code if result.is_regression else 0


def _request(arguments: dict[str, Any]) -> RunRequest:
    return RunRequest(
        engine=arguments["engine"],
        model_name=arguments["model_name"],
        n_prompt_tokens=arguments["n_prompt_tokens"],
        n_requests=arguments["n_requests"],
        vllm=VllmChoices(),
        cache=arguments["cache"],
    )


def _against(request: RunRequest, python: str | None, settings: tuple[str, ...]) -> RunRequest | None:
    """Return the baseline's request, if it is to be recorded now."""
    if python is None and not settings:
        return None
    if python is not None and request.engine != "hf":
        raise UsageError("--against-python is for --engine hf", hint="put the other vLLM on PATH with --against-env")
    pairs = [setting.partition("=") for setting in settings]
    if any(not name or not equals for name, equals, _ in pairs):
        raise UsageError("--against-env takes NAME=VALUE", hint="--against-env OMP_NUM_THREADS=1")
    return replace(request, interpreter=python or "", environ={name: value for name, _, value in pairs})


def _recorder(request: RunRequest, progress: Progress, arguments: dict[str, Any], name: str) -> Any:
    """Return what records one more run; its first run warms what the runs have in common, and is not counted."""
    from ..studies.repeat import run_once  # noqa: PLC0415

    probes = default_probes(RecordOptions(tier=arguments["tier"]))
    numbers = itertools.count()
    keep = arguments["keep"]

    def record() -> Report:
        number = next(numbers)
        if number == 0:
            say("first a run to warm up, which does not count")
            run_once(request, probes, progress)
        save = keep / f"{name}-{number:03d}.json" if keep is not None else None
        return run_once(request, probes, progress, save).report

    return record


def _write_baseline(directory: Path, request: RunRequest, progress: Progress, arguments: dict[str, Any]) -> int:
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty", hint="name another directory, or remove this one")
    record = _recorder(request, progress, {**arguments, "keep": directory}, "run")
    for number in range(_BASELINE_RUNS):
        say(f"run {number + 1} of {_BASELINE_RUNS}")
        record()
    click.echo(f"{_BASELINE_RUNS} runs in {directory}; slmtrace check --baseline {directory} compares with them")
    return 0
