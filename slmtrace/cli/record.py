"""`slmtrace record -- COMMAND`: any program, recorded as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ..engines.floors import read_floors
from ..engines.models import Model, inspect_model, locate_model
from ..errors import UsageError
from ..recorder import Recording, record
from ..recording.ending import Until, parse_until
from ..recording.progress import Progress
from .recording import default_output, explain, import_analysis, read_choices, recording_options


@click.command(
    "record",
    short_help="Record any command.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@recording_options
@click.option(
    "--until",
    metavar="exit|first-token|N-requests",
    default="exit",
    show_default=True,
    help="End the target then: SIGTERM, and SIGKILL to it and its children 10 s later.",
)
@click.argument("command_line", metavar="COMMAND...", nargs=-1, type=click.UNPROCESSED)
def command(until: str, command_line: tuple[str, ...], **arguments: Any) -> int:
    """Run COMMAND, record it, and explain its load time and its times to first token.

    COMMAND keeps its terminal, its input and its output, and its exit code is returned; the breakdown goes to stderr.
    When --until ended it, the exit code is 0.
    """
    choices = read_choices(arguments)
    if not command_line:
        raise UsageError("there is no command to record", hint="slmtrace record -- python program.py")
    wanted = parse_until(until)
    if wanted != Until() and "ranges" not in choices.probes:
        raise UsageError(f"--until {until} is told by the probe ranges", hint="add ranges to --probes")
    found = _find_model(command_line)
    model, weight_files = (found.name, found.weight_files) if found else ("", ())
    recording = Recording(
        command=command_line,
        probes=choices.probes,
        required=choices.required,
        probes_if_present=choices.probes_if_present,
        options=choices.options,
        until=wanted,
        model=model,
        weight_files=weight_files,
        floors=read_floors(found) if found else {},
    )
    name = model or next((Path(word).stem for word in reversed(command_line[:3]) if word.endswith(".py")), "")
    output = choices.output or default_output("record", name or Path(command_line[0]).name)
    progress = Progress()
    try:
        outcome = record(recording, output, progress, import_analysis)
        with contextlib.suppress(BrokenPipeError):  # nobody reads stderr: still no failure of the target
            explain(outcome, progress, to_stderr=True)
    finally:
        progress.clear()
    return outcome.exit_code


def _find_model(command_line: Sequence[str]) -> Model | None:
    """Return the first model that the command names, if any."""
    for word in command_line[1:]:
        path = locate_model(word.rpartition("=")[2])
        if path is not None:
            try:
                return inspect_model(path)
            except UsageError:
                continue
    return None
