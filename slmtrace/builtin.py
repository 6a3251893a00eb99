"""The built-in run, recorded: from what is asked of an engine to a capture. `slmtrace run` and the studies share it.

A study records in its own process. What must be isolated already is: the target is a fresh process behind a gate, the
collector another, and only the target sees a run's environment. A recorder of its own for each run would cost its
imports each time, and change nothing that the target can notice.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .engines.floors import find_floors, read_floors
from .engines.hf import NEW_TOKENS, EngineRun, prepare_run
from .engines.models import Model, find_model
from .engines.vllm import VllmChoices, prepare_vllm_run
from .errors import UsageError
from .probes.base import RecordOptions
from .probes.registry import DEEP_PROBES, DEFAULT_PROBES, PROBES_IF_PRESENT, in_order
from .recorder import Outcome, Recording, record
from .recording.deadline import ended_at
from .recording.ending import Until
from .recording.progress import Progress


@dataclass(frozen=True, slots=True)
class ProbeChoices:
    """Which probes record, and how."""

    options: RecordOptions
    probes: tuple[str, ...]
    required: tuple[str, ...] = ()
    probes_if_present: tuple[str, ...] = ()


def default_probes(options: RecordOptions, required: tuple[str, ...] = ()) -> ProbeChoices:
    """Return the probes of a tier."""
    chosen = {*(DEEP_PROBES if options.tier == "deep" else DEFAULT_PROBES)}
    if options.malloc == "slow":
        chosen.add("malloc")
    return ProbeChoices(options, in_order(chosen), required, PROBES_IF_PRESENT)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What is asked of an engine."""

    engine: str = "hf"
    model_name: str = "tiny"
    n_prompt_tokens: int = 128
    n_requests: int = 3
    n_new_tokens: int = NEW_TOKENS
    vllm: VllmChoices = field(default_factory=VllmChoices)
    cache: str = ""  # cold, warm; '': as it is
    interpreter: str = ""  # hf: the Python that runs the model; '': ours
    environ: Mapping[str, str] = field(default_factory=dict)  # set for the target alone
    prefix: tuple[str, ...] = ()  # a command that executes the one after it, such as taskset -c 0
    deadline_s: float = math.inf  # CLOCK_MONOTONIC: the program is ended then; what it did by then is recorded

    def prepare(self, model: Model, scratch: Path, progress: Progress) -> EngineRun:
        """Return the command to record."""
        if self.engine == "vllm":
            sizes = (self.n_prompt_tokens, self.n_requests)
            return prepare_vllm_run(model, *sizes, self.vllm, scratch, progress.say)
        return prepare_run(
            model,
            self.n_prompt_tokens,
            self.n_requests,
            scratch,
            progress.say,
            n_new_tokens=self.n_new_tokens,
            interpreter=self.interpreter,
        )


@dataclass(frozen=True, slots=True)
class Answered:
    """What a program of the built-in run says of a request it answered; nothing of it comes from a probe."""

    start_s: float  # CLOCK_MONOTONIC
    latency_s: float  # from the prompt's text to the last token's
    n_new_tokens: int
    rss_bytes: int  # of the process, after the answer; 0: unknown


def record_run(
    request: RunRequest,
    probes: ProbeChoices,
    output: Path,
    progress: Progress,
    meanwhile: Callable[[], object] | None = None,
) -> tuple[Outcome, list[Answered]]:
    """Record a built-in run to `output`, and return how it ended and its answers.

    Raises:
        OutOfTime: its deadline came before the program could be started.
        SlmtraceError: the model or the engine is not there, or what is asked cannot be.
    """
    model = find_model(request.model_name, progress.say)
    if request.cache == "cold" and not model.weight_files:
        raise UsageError("--cold needs weight files", hint="name a model directory")
    with tempfile.TemporaryDirectory(prefix="slmtrace-") as scratch:
        with ended_at(request.deadline_s):
            run = request.prepare(model, Path(scratch), progress)
        # A run with a deadline has no time to measure the node.
        floors = find_floors(model, progress.say) if math.isinf(request.deadline_s) else read_floors(model)
        recording = Recording(
            command=(*request.prefix, *run.command),
            probes=probes.probes,
            required=probes.required,
            probes_if_present=probes.probes_if_present,
            options=probes.options,
            engine=request.engine,
            engine_version=run.engine_version,
            model=model.name,
            weight_files=model.weight_files,
            cache=request.cache,
            until=Until(deadline_s=request.deadline_s),
            environ={**run.environ, **request.environ},
            floors=floors,
        )
        return record(recording, output, progress, meanwhile), _read_answers(run.results)


def _read_answers(path: Path | None) -> list[Answered]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None else []
        return [Answered(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError):  # the target was ended before it could say
        return []
