"""Run a command with a fault: python -m tools.faults NAME [--model DIR] -- COMMAND...

    python -m tools.faults --list
    python -m tools.faults cpu_hog -- slmtrace run
    python -m tools.faults io_throttled --model DIR -- slmtrace run --model DIR

It says on stderr what it changes, and returns the command's exit code. What it changed is undone when the command ends,
and when this program is killed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from .base import Impossible, Setting
from .catalogue import FAULTS


def main() -> int:
    """Inject, run, undo."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=sorted(FAULTS), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="list the faults")
    parser.add_argument("--cured", action="store_true", help="do what the finding recommends as well")
    parser.add_argument("--model", type=Path, help="the model directory that the command loads")
    parser.add_argument("command", nargs="*", metavar="-- COMMAND")
    words, command = _split(sys.argv[1:])
    args = parser.parse_args(words)
    if args.list or not args.name:
        for fault in FAULTS.values():
            untested = "" if fault.is_tested else " (untested: needs a GPU)"
            print(f"{fault.name:22} {fault.summary}{untested}")
        return 0
    if not command:
        parser.error("no command after --")
    try:
        with FAULTS[args.name].injected(args.model, is_cured=args.cured) as setting:
            for change in setting.changes:
                print(f"fault: {change}", file=sys.stderr)
            return run(command, setting).returncode
    except Impossible as error:
        print(f"fault: {args.name} cannot be injected here: {error}", file=sys.stderr)
        return 1


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def run(command: list[str], setting: Setting, output: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command in the setting of a fault; what it prints goes to a file, if one is named."""

    def enter_cgroups() -> None:
        for cgroup in setting.cgroups:
            (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    with (output or Path(os.devnull)).open("wb") as file:
        stream = file if output else None
        return subprocess.run(
            [*command, *setting.arguments],
            env={**os.environ, **setting.environ},
            preexec_fn=enter_cgroups,
            stdout=stream,
            stderr=stream,
            check=False,
        )


if __name__ == "__main__":
    sys.exit(main())
