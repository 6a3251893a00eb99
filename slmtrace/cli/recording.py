"""What `run` and `record` share: their options, and the way from a recording to its breakdown."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import click

from ..builtin import ProbeChoices, default_probes
from ..capture.directory import Capture
from ..errors import UsageError
from ..probes.base import RecordOptions
from ..probes.registry import parse_names
from ..recorder import Outcome
from ..recording.ownership import give_to_caller
from ..recording.progress import Progress
from . import options
from .failure import describe_error, harmless, print_failure
from .show import show_report

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_OPTIONS = (
    options.tier,
    options.probes,
    options.collector_socket,
    click.option("--require", metavar="LIST", default="", help="Fail (exit code 3) if one of these probes cannot run."),
    click.option(
        "--malloc",
        type=click.Choice(["off", "default", "slow", "full"]),
        default="default",
        show_default=True,
        help="Allocator: its system calls and faults; slow: calls over a threshold too; full: every call.",
    ),
    click.option(
        "--gpu-kernels/--no-gpu-kernels",
        default=True,
        show_default=True,
        help="Record GPU kernels, copies and graphs; each launch takes about 1 us longer. Without, calls alone.",
    ),
    click.option(
        "-o",
        "--output",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Write the capture here.  [default: traces/<UTC time>-<engine>-<model>]",
    ),
)


@dataclass(frozen=True, slots=True)
class RecordingChoices(ProbeChoices):
    """The recording options of a command line, checked."""

    output: Path | None = None


def recording_options(command: Decorated) -> Decorated:
    """Add the options that every recording command has."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_choices(arguments: Mapping[str, Any]) -> RecordingChoices:
    """Check the recording options.

    Raises:
        UsageError: a probe has an unknown name, or the output is something that exists.
    """
    how = RecordOptions(
        tier=str(arguments["tier"]),
        malloc=str(arguments["malloc"]),
        has_gpu_kernels=bool(arguments["gpu_kernels"]),
    )
    _check_output(arguments["output"])
    chosen = choose_probes(how, arguments["probes"], parse_names(str(arguments["require"])))
    return RecordingChoices(how, chosen.probes, chosen.required, chosen.probes_if_present, arguments["output"])


def choose_probes(how: RecordOptions, names: str | None, required: tuple[str, ...] = ()) -> ProbeChoices:
    """Return the probes that --probes names, or without it those of the tier.

    Raises:
        UsageError: a probe has an unknown name.
    """
    return default_probes(how, required) if names is None else ProbeChoices(how, parse_names(names), required)


def _check_output(path: Path | None) -> None:
    """Refuse an output early that the capture would refuse late."""
    if path is not None and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        what = "is not empty" if path.is_dir() else "is not a directory"
        raise UsageError(f"{path} {what}", hint="name another directory with -o, or remove this one")


def default_output(engine: str, model: str) -> Path:
    """Return where a recording goes when nothing else was said."""
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{now}-{engine}-{model}").strip("-.")
    for path in (
        Path("traces", name + suffix) for suffix in itertools.chain([""], map("-{}".format, itertools.count(2)))
    ):
        if not path.exists():
            return path
    raise AssertionError("the suffixes never end")


def explain(outcome: Outcome, progress: Progress, *, to_stderr: bool) -> bool:
    """Analyse a finished capture, write its outputs, print the breakdown and where everything is.

    What goes wrong is told, and the capture stays: the target has run, and its exit code counts. Return whether nothing
    went wrong.
    """
    capture = outcome.capture
    try:
        _analyse(capture, progress, to_stderr=to_stderr)
        for warning in outcome.warnings:
            click.echo(f"slmtrace: {harmless(warning)}", err=True)
        click.echo(f"\n{harmless(_where(capture))}", err=to_stderr)
    except BrokenPipeError:
        raise
    except Exception as error:  # a defect of the analysis is no failure of the target
        progress.clear()
        print_failure(f"the capture {capture.path} could not be explained: {describe_error(error)}", error)
        return False
    return True


def import_analysis() -> None:
    """Import what explains a capture: it takes half a second, which is free while probes start."""
    for module in ("analysis", "output.text"):
        importlib.import_module(f"slmtrace.{module}")


def _analyse(capture: Capture, progress: Progress, *, to_stderr: bool) -> None:
    from ..analysis import analyze, write_outputs  # noqa: PLC0415  (numpy and perfetto take longer to import)

    progress.say("analysing")
    try:
        trace, report = analyze(capture)
        progress.clear()
        show_report(report, to_stderr=to_stderr)
        progress.say("writing the timeline")
        write_outputs(trace, report, capture)
    finally:
        give_to_caller(capture.path)
        progress.clear()


def _where(capture: Capture) -> str:
    path = capture.path
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return (
        f"capture   {path}\n"
        f"timeline  {path / capture.trace_path.name}  (slmtrace view {path}, or https://ui.perfetto.dev)\n"
        f"again     slmtrace report {path}"
    )
