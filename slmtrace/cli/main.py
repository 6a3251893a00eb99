"""The `slmtrace` command: finds the subcommand, and turns every failure into one message and an exit code."""

from __future__ import annotations

import errno
import importlib
import keyword
import os
import sys
from collections.abc import Sequence

import click

from .. import __version__
from ..errors import SlmtraceError
from .failure import describe_error, print_failure

# Imported only when they are called, so that `slmtrace --help` is there at once.
_COMMANDS = {
    "run": "Record a built-in run and say where load time and time to first token went.",
    "record": "Record any command.",
    "attach": "Record a program that runs already.",
    "report": "Explain a capture, or a trace with an embedded breakdown.",
    "diff": "Say what moved between two recordings, and in what they are unlike.",
    "view": "Open the timeline in the Perfetto UI.",
    "import": "Explain a trace of torch.profiler.",
    "bundle": "Make one file for a bug report, without anything private.",
    "certify": "Say whether this node is fit for a big model, in a minute.",
    "sweep": "Draw a curve of what one thing does to load and first token, and why.",
    "fleet": "Certify many nodes, and find those unlike the others.",
    "check": "Fail if a run is slower than its baseline: a regression gate for CI.",
    "collector": "Serve eBPF collectors to unprivileged recordings, as root.",
    "doctor": "Try every probe, and say what is missing and how to get it.",
    "model": "Write a probe model with random weights.",
}
_INTERRUPTED = 130
_BROKEN_PIPE = 141


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = f"{__package__}.{cmd_name}" + ("_" if keyword.iskeyword(cmd_name) else "")
        command: click.Command = importlib.import_module(module).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="slmtrace")
def cli() -> None:
    """Say why the first token is slow on this node: one timeline, from the storage device to the first token."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        code = cli.main(args=arguments, prog_name="slmtrace", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except SystemExit:  # click's only use of it here: the reader of our output has gone
        return _end_quietly()
    except KeyboardInterrupt as error:
        print_failure("interrupted", error)
        return _INTERRUPTED
    except Exception as error:  # the last resort: users never see a traceback
        return _explain_failure(error)


def _explain_failure(error: Exception) -> int:
    """Say what went wrong, and return the exit code."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return _end_quietly()
    if isinstance(error, SlmtraceError):
        print_failure(str(error), error, hint=error.hint)
        return error.exit_code
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "slmtrace"
        # Of an argument that is missing, click lists the choices a line each.
        print_failure(" ".join(error.format_message().split()), error, hint=f"{path} --help")
        return error.exit_code
    if isinstance(error, click.Abort):  # click's word for a KeyboardInterrupt
        print_failure("interrupted", error)
        return _INTERRUPTED
    print_failure(describe_error(error), error, hint="SLMTRACE_DEBUG=1 shows where; please report it")
    return 1


def _end_quietly() -> int:
    """Whoever read our output has gone: nothing is left to say, and Python must not try at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE
