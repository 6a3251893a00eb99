"""Other recorders of the same program, each as a command around it, for the overhead benchmark."""

from __future__ import annotations

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slmtrace.probes.pyspy import find_pyspy

HERE = Path(__file__).resolve().parent
_PY_SPY = find_pyspy() or "py-spy"
# The shell's clock just before exec: what a recorder does before that is not the program's load time.
STAMP = ("sh", "-c", 'SLM_T0=$(date +%s%N) exec "$@"', "sh")


@dataclass(frozen=True, slots=True)
class Peer:
    """A recorder: `wrap` turns the program's words and a directory to write to into the command to run."""

    wrap: Callable[[Sequence[str], Path], list[str]]
    needs: Sequence[str]  # commands on PATH, modules, or files
    install: str

    @property
    def is_able(self) -> bool:
        """Say whether it can be run."""
        return all(shutil.which(one) or Path(one).exists() or importlib.util.find_spec(one) for one in self.needs)


def _torch_profiler(program: Sequence[str], out: Path) -> list[str]:
    return [*STAMP, sys.executable, str(HERE / "torch_profiled.py"), str(out / "trace.json"), *program]


def _viztracer(program: Sequence[str], out: Path) -> list[str]:
    return [*STAMP, sys.executable, "-m", "viztracer", "--quiet", "-o", str(out / "trace.json"), "--", *program]


def _py_spy(program: Sequence[str], out: Path) -> list[str]:
    options = ["--rate", "100", "--format", "speedscope", "--output", str(out / "profile.json")]
    return [*STAMP, _PY_SPY, "record", *options, "--", sys.executable, *program]


def _memray(program: Sequence[str], out: Path) -> list[str]:
    return [*STAMP, sys.executable, "-m", "memray", "run", "--quiet", "-o", str(out / "memray.bin"), *program]


def _strace(program: Sequence[str], out: Path) -> list[str]:
    return ["strace", "-f", "-r", "-o", str(out / "strace.txt"), *STAMP, sys.executable, *program]


def _bpftrace(program: Sequence[str], out: Path) -> list[str]:
    script = out / "program"  # it splits the words of -c at spaces, whatever is quoted
    script.write_text("exec " + shlex.join([*STAMP, sys.executable, *program]) + "\n")
    events, command = str(out / "events.txt"), f"/bin/sh {script}"
    return ["bpftrace", "-o", events, "-c", command, str(HERE / "equal_probes.bt")]


# Where a recorder's own start counts as the program's load, it is because the program cannot start before it.
PEERS = {
    "torch.profiler": Peer(_torch_profiler, ("torch",), "pip install 'slmtrace[hf]'"),
    "viztracer": Peer(_viztracer, ("viztracer",), "pip install 'slmtrace[bench]'"),
    "py-spy": Peer(_py_spy, (_PY_SPY,), "pip install slmtrace"),
    "memray": Peer(_memray, ("memray",), "pip install 'slmtrace[bench]'"),
    "strace": Peer(_strace, ("strace",), "apt-get install strace"),
    "bpftrace": Peer(
        _bpftrace,
        ("bpftrace", "/sys/kernel/tracing/events"),
        "apt-get install bpftrace; mount -t tracefs nodev /sys/kernel/tracing",
    ),
}
