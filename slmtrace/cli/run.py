"""`slmtrace run`: a built-in run of a model, recorded and explained."""

from __future__ import annotations

from typing import Any

import click

from ..builtin import RunRequest, record_run
from ..engines.models import find_model
from ..engines.vllm import VllmChoices
from ..errors import UsageError
from ..recording.progress import Progress
from . import options
from .recording import default_output, explain, import_analysis, read_choices, recording_options


@click.command("run", short_help="Record a built-in run and explain it.")
@options.engine
@options.model
@options.prompt_tokens
@click.option("--requests", "n_requests", metavar="N", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--offline", is_flag=True, help="vllm: the LLM class in one program, in place of server and client.")
@click.option("--concurrency", metavar="N", type=click.IntRange(min=1), help="vllm: so many requests at a time.  [1]")
@click.option("--cold", "cache", flag_value="cold", help="Drop the weight files from the page cache first.")
@click.option("--warm", "cache", flag_value="warm", help="Read the weight files into the page cache first.")
@recording_options
def command(
    engine: str,
    model_name: str,
    n_prompt_tokens: int,
    n_requests: int,
    offline: bool,
    concurrency: int | None,
    cache: str | None,
    **arguments: Any,
) -> int:
    """Load a model, answer a few requests, and say where load time and time to first token went.

    The first request meets everything for the first time; the later ones are steady. The breakdown goes to stdout.
    """
    if engine != "vllm" and (offline or concurrency):
        raise UsageError(
            "--offline and --concurrency are for --engine vllm", hint="add --engine vllm, or leave them out"
        )
    if offline and concurrency:
        raise UsageError("--offline asks one at a time", hint="leave out --concurrency or --offline")
    choices = read_choices(arguments)
    progress = Progress(n_requests=n_requests)
    request = RunRequest(
        engine=engine,
        model_name=model_name,
        n_prompt_tokens=n_prompt_tokens,
        n_requests=n_requests,
        vllm=VllmChoices(offline, concurrency or 1),
        cache=cache or "",
    )
    try:
        output = choices.output or default_output(engine, find_model(model_name, progress.say).name)
        outcome, _ = record_run(request, choices, output, progress, import_analysis)
        is_explained = explain(outcome, progress, to_stderr=False)
    finally:
        progress.clear()
    if outcome.exit_code:
        click.echo(f"slmtrace: the run ended with exit code {outcome.exit_code}", err=True)
    return outcome.exit_code or int(not is_explained)
