"""`slmtrace attach PID`: a program that runs already, recorded without touching it."""

from __future__ import annotations

from typing import Any

import click

from ..attaching import ENGINE, Attachment, attach
from ..recording.progress import Progress
from .recording import default_output, explain, read_choices, recording_options


@click.command("attach", short_help="Record a program that runs already.")
@click.argument("pid", type=click.IntRange(min=1))
@click.option(
    "--duration",
    "duration_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="Let go after this time.  [default: at Ctrl-C, or when the process ends]",
)
@recording_options
def command(pid: int, duration_s: float | None, **arguments: Any) -> int:
    """Record process PID with all its threads and descendants, and explain the requests that it answers meanwhile.

    Nothing is loaded into the process, and it goes on as before; where it uses CUDA, each of the driver's rare calls
    takes about 10 us longer (uprobes). A request is a plain HTTP/1 POST with a successful answer: from its first bytes
    read to the first bytes of the answer's body written, by the kernel's evidence.
    """
    choices = read_choices(arguments)
    attachment = Attachment(
        pid=pid,
        probes=choices.probes,
        required=choices.required,
        probes_if_present=choices.probes_if_present,
        options=choices.options,
        duration_s=float("inf") if duration_s is None else duration_s,
    )
    progress = Progress()
    try:
        outcome = attach(attachment, choices.output or default_output(ENGINE, str(pid)), progress)
        return 0 if explain(outcome, progress, to_stderr=False) else 1
    finally:
        progress.clear()
