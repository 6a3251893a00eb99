"""Describe the built-in transformers run to the recorder."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import SlmtraceError, UsageError
from ..recording.facts import package_version
from .models import Model, has_tokenizer

NEW_TOKENS = 4
# Run by its path, like a program of a user: nothing of this package is imported there.
_TARGET = Path(__file__).with_name("hf_target.py")
# The prompts are ours and the model is local: nothing of the run may wait for a network.
_ENVIRON = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1", "PYTHONSAFEPATH": "1"}


@dataclass(frozen=True, slots=True)
class EngineRun:
    """A command to record, and what it is."""

    engine: str
    engine_version: str
    command: tuple[str, ...]
    environ: dict[str, str]
    results: Path | None = None  # where the program writes a JSON line for each request it answered


def prepare_run(
    model: Model,
    n_prompt_tokens: int,
    n_requests: int,
    scratch: Path,
    say: Callable[[str], None],
    *,
    n_new_tokens: int = NEW_TOKENS,
    interpreter: str = "",
) -> EngineRun:
    """Make the prompts in `scratch` and return the command that answers them, under our Python or another one.

    Raises:
        UsageError: the model cannot do what is asked.
        SlmtraceError: transformers is not installed.
    """
    for package in ("torch", "transformers"):
        if not interpreter and importlib.util.find_spec(package) is None:
            raise SlmtraceError(f"the built-in run needs {package}", hint="pip install 'slmtrace[hf]'")
    if not has_tokenizer(model):
        raise UsageError(f"{model.path} has no tokenizer", hint="download the model's tokenizer files too")
    prompts = make_prompts(model, n_prompt_tokens, n_requests, n_new_tokens, scratch, say)
    results = scratch / "results.jsonl"
    arguments = (str(model.path), str(prompts), str(n_new_tokens), str(results))
    command = (interpreter or sys.executable, str(_TARGET), *arguments)
    version = "" if interpreter else package_version("transformers")
    return EngineRun("hf", version, command, dict(_ENVIRON), results)


def make_prompts(
    model: Model, n_prompt_tokens: int, n_requests: int, n_new_tokens: int, scratch: Path, say: Callable[[str], None]
) -> Path:
    """Make distinct prompts of this length for a model, and return the file that holds them.

    Raises:
        UsageError: the model cannot attend to so many tokens.
        SlmtraceError: its tokenizer makes no such prompts.
    """
    if model.max_tokens and n_prompt_tokens + n_new_tokens > model.max_tokens:
        raise UsageError(
            f"{n_prompt_tokens} prompt tokens and {n_new_tokens} new ones exceed the model's {model.max_tokens}",
            hint=f"--prompt-tokens {model.max_tokens - n_new_tokens} is the most",
        )
    say("making the prompts")
    prompts = scratch / "prompts.json"
    _run_python("slmtrace.engines.prompts", str(model.path), str(n_prompt_tokens), str(n_requests), str(prompts))
    return prompts


def _run_python(module: str, *arguments: str) -> None:
    made = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        reason = (made.stderr.strip().splitlines() or [f"exit code {made.returncode}"])[-1]
        raise SlmtraceError(f"the prompts could not be made: {reason}", hint="try another --prompt-tokens")
