"""`slmtrace run`: a built-in run of a model, recorded and explained."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from ..engines.hf import EngineRun, prepare_run
from ..engines.models import Model, find_model
from ..engines.vllm import VllmChoices, prepare_vllm_run
from ..errors import UsageError
from ..recorder import Outcome, Recording, record
from ..recording.progress import Progress
from .recording import (
    RecordingChoices,
    default_output,
    explain,
    import_analysis,
    read_choices,
    recording_options,
)


@click.command("run", short_help="Record a built-in run and explain it.")
@click.option(
    "--engine",
    type=click.Choice(["hf", "vllm"]),
    default="hf",
    show_default=True,
    help="hf: Hugging Face transformers; vllm: a vLLM server on this machine, and a client that streams.",
)
@click.option(
    "--model",
    "model_name",
    metavar="DIR|NAME",
    default="tiny",
    show_default=True,
    help="A model directory, or a probe model (see slmtrace model --help), made at its first use.",
)
@click.option("--prompt-tokens", metavar="N", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--requests", "n_requests", metavar="N", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--offline", is_flag=True, help="vllm: the LLM class in one program, in place of server and client.")
@click.option("--concurrency", metavar="N", type=click.IntRange(min=1), help="vllm: so many requests at a time.  [1]")
@click.option("--cold", "cache", flag_value="cold", help="Drop the weight files from the page cache first.")
@click.option("--warm", "cache", flag_value="warm", help="Read the weight files into the page cache first.")
@recording_options
def command(
    engine: str,
    model_name: str,
    prompt_tokens: int,
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
    vllm_choices = VllmChoices(offline, concurrency or 1)
    choices = read_choices(arguments)
    progress = Progress(n_requests=n_requests)
    try:
        outcome = _record(
            choices, _Request(engine, model_name, prompt_tokens, n_requests, vllm_choices, cache or ""), progress
        )
        is_explained = explain(outcome, progress, to_stderr=False)
    finally:
        progress.clear()
    if outcome.exit_code:
        click.echo(f"slmtrace: the run ended with exit code {outcome.exit_code}", err=True)
    return outcome.exit_code or int(not is_explained)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked of the engine."""

    engine: str
    model_name: str
    n_prompt_tokens: int
    n_requests: int
    vllm: VllmChoices
    cache: str

    def prepare(self, model: Model, scratch: Path, progress: Progress) -> EngineRun:
        """Return the command to record."""
        sizes = (self.n_prompt_tokens, self.n_requests)
        if self.engine == "vllm":
            return prepare_vllm_run(model, *sizes, self.vllm, scratch, progress.say)
        return prepare_run(model, *sizes, scratch, progress.say)


def _record(choices: RecordingChoices, request: _Request, progress: Progress) -> Outcome:
    model = find_model(request.model_name, progress.say)
    if request.cache == "cold" and not model.weight_files:
        raise UsageError("--cold needs weight files", hint="name a model directory")
    with tempfile.TemporaryDirectory(prefix="slmtrace-") as scratch:
        run = request.prepare(model, Path(scratch), progress)
        recording = Recording(
            command=run.command,
            probes=choices.probes,
            required=choices.required,
            probes_if_present=choices.probes_if_present,
            options=choices.options,
            engine=request.engine,
            engine_version=run.engine_version,
            model=model.name,
            weight_files=model.weight_files,
            cache=request.cache,
            environ=run.environ,
        )
        output = choices.output or default_output(request.engine, model.name)
        return record(recording, output, progress, import_analysis)
