"""One recording of a study: run, explain, keep the breakdown, drop the rest."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..analysis import analyze
from ..builtin import Answered, ProbeChoices, RunRequest, record_run
from ..errors import LaunchError, SlmtraceError
from ..instrument.environment import QUIET
from ..model.report import Report, WindowReport
from ..model.sched import Sched
from ..model.taxonomy import Cause, WindowKind
from ..model.trace import Trace
from ..output.json_ import render_json
from ..output.summary import shown_windows
from ..recording.deadline import ended_at
from ..recording.progress import Progress

LOAD, FIRST, LATER = "load", "first ttft", "later ttft"
GPU_MEMORY, RSS = "gpu0 memory_used", "rss"


@dataclass(frozen=True, slots=True)
class Run:
    """A recording explained, and what the program itself said of its answers."""

    report: Report
    answers: Sequence[Answered]  # fewer than requests: its time was over before it had answered all
    gpu_memory_bytes: int = 0  # the most that was used of the first GPU; 0: there is none
    rss_bytes: int = 0  # the most that all processes of the program had together; 0: unknown
    busy_cpus: float = 0.0  # that the later requests kept busy, spinning included; 0: unknown


def run_once(
    request: RunRequest,
    probes: ProbeChoices,
    progress: Progress,
    save: Path | None = None,
    explained_by_s: float = math.inf,
) -> Run:
    """Record and explain one run in a scratch directory, by a time (CLOCK_MONOTONIC); `save` keeps its breakdown.

    Raises:
        LaunchError: it was interrupted.
        OutOfTime: it was not explained, or not even begun, in time.
        SlmtraceError: the run failed, or could not be.
    """
    request = replace(request, environ={**request.environ, QUIET: "1"})
    with tempfile.TemporaryDirectory(prefix="slmtrace-") as scratch:
        outcome, answers = record_run(request, probes, Path(scratch) / "capture", progress)
        if outcome.status != "complete":
            raise LaunchError("interrupted")
        if outcome.exit_code:
            raise SlmtraceError(
                f"a run of the study ended with exit code {outcome.exit_code}",
                hint=f"slmtrace run --engine {request.engine} --model {request.model_name} shows what is wrong",
            )
        progress.say("analysing")
        with ended_at(explained_by_s):
            trace, report = analyze(outcome.capture)
        progress.clear()
    if save is not None:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(render_json(report), encoding="utf-8")
    return Run(report, answers, _most(trace, GPU_MEMORY), _most(trace, RSS), count_busy_cpus(trace.sched, report))


def _most(trace: Trace, counter: str) -> int:
    return max((int(one.value.max()) for one in trace.counters if one.name == counter and len(one.value)), default=0)


def count_busy_cpus(sched: Sched, report: Report) -> float:
    """Return how many CPUs the program's threads had, on average over the requests after the first."""
    windows = [one for one in report.windows if one.kind is WindowKind.TTFT and one.index]
    held_ns = sum(
        int(
            np.maximum(np.minimum(sched.run_end_ns, one.end_ns) - np.maximum(sched.run_start_ns, one.start_ns), 0).sum()
        )
        for one in windows
    )
    return held_ns / max(1, sum(one.total_ns for one in windows))


def series_of(report: Report) -> Mapping[str, WindowReport]:
    """Return the windows that studies follow: the load, the first request, and the median of the later ones."""
    return {one.label: one.window for one in shown_windows(report) if one.label in (LOAD, FIRST, LATER)}


def own_ns(window: WindowReport) -> int:
    """Return a window's length without its waits for a CPU, which other programs had; at least 1."""
    return max(1, window.total_ns - sum(share.ns for share in window.causes if share.cause is Cause.RUN_QUEUE))


def size_columns(run: Run) -> dict[str, float]:
    """Return what a run took of its node, as columns of a table; without what is unknown."""
    sizes = {"gpu_memory_used_bytes": run.gpu_memory_bytes, "rss_bytes": run.rss_bytes, "busy_cpus": run.busy_cpus}
    return {name: size for name, size in sizes.items() if size}


def only_series(report: Report) -> Report:
    """Return the report with these windows alone, the later requests as one: what repeats have in common."""
    series = series_of(report)
    windows = [replace(window, index=int(label == LATER)) for label, window in series.items()]
    return replace(report, windows=windows)
