"""Check that a real vLLM's requests are followed from the client's send to its receive, through every process.

    PATH=VENV/bin:$PATH VLLM_CPU_KVCACHE_SPACE=1 python -m tools.vllm_requests [--requests 30] [--prompt-tokens 22 512]
        [--concurrency 1 8] [--keep DIR]

It records a server and its client once for each number of prompt tokens and each number of requests at a time, and
prints what it measured beside what is allowed. Exit code 1: a check failed.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slmtrace.analysis import load
from slmtrace.attribute.attribution import attribute
from slmtrace.capture.directory import Capture
from slmtrace.model.report import WindowReport
from slmtrace.model.taxonomy import Phase, Stage, WindowKind
from slmtrace.model.trace import Trace
from slmtrace.model.windows import find_windows
from slmtrace.output.perfetto.groups import process_names

MAX_DIFFERENCE_MS = 0.1
MAX_MEDIAN_UNATTRIBUTED, MAX_UNATTRIBUTED = 0.03, 0.06
# A request's stages in the order in which it meets them; prepare and prefill wait for what the step needs in between.
ORDER = (Stage.RECEIVE, Stage.TOKENIZE, Stage.SUBMIT, Stage.SCHEDULE, Stage.PREFILL, Stage.DETOKENIZE, Stage.DELIVER)
# A short stage may run beside the path, while another thread holds the interpreter's lock; these are too long for that.
NEEDED = {Stage.SUBMIT, Stage.PREFILL, Stage.DELIVER}
# How the names of the processes begin: API server, engine core, worker.
PROCESSES = ("vllm", "VLLM::EngineCore", "VLLM::Worker")


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded run, explained, and the TTFT that its client printed for each request, in ms."""

    trace: Trace
    reports: list[WindowReport]
    client_ms: dict[str, float]

    @property
    def requests(self) -> list[WindowReport]:
        """Return the windows of the requests."""
        return [report for report in self.reports if report.kind is WindowKind.TTFT]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold for every request of a run."""

    what: str
    measured: str
    allowed: str
    is_passed: bool


def main() -> int:
    """Record, check, print."""
    args = _arguments()
    has_passed = True
    with tempfile.TemporaryDirectory(prefix="slmtrace-requests-") as scratch:
        for n_tokens in args.prompt_tokens:
            for concurrency in args.concurrency:
                path = (args.keep or Path(scratch)) / f"{n_tokens}-tokens-{concurrency}-at-a-time"
                checks = check(record(path, args.requests, n_tokens, concurrency))
                print(f"{args.requests} requests of {n_tokens} tokens, {concurrency} at a time")
                for one in checks:
                    failed = "" if one.is_passed else "  FAILED"
                    print(f"    {one.what:26}{one.measured:32}allowed: {one.allowed}{failed}", flush=True)
                has_passed &= all(one.is_passed for one in checks)
    return 0 if has_passed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.vllm_requests", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--prompt-tokens", type=int, nargs="+", default=[22, 512])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--keep", type=Path, help="keep the captures in this directory")
    return parser.parse_args()


def record(path: Path, n_requests: int, n_prompt_tokens: int, concurrency: int = 1) -> Run:
    """Record a server of the tiny model and a client that asks it.

    Raises:
        SystemExit: the run failed.
    """
    command = [sys.executable, "-m", "slmtrace", "run", "--engine", "vllm", "-o", str(path)]
    command += ["--requests", str(n_requests), "--prompt-tokens", str(n_prompt_tokens)]
    command += ["--concurrency", str(concurrency)]
    # The cache holds the probe model and vLLM's compiled graphs; tests keep their own cache of ours.
    environ = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the run failed with exit code {done.returncode}\n{done.stderr[-4000:]}")
    trace = load(Capture.open(path))
    printed = re.findall(r"request (\S+): first data after ([\d.]+) ms", done.stderr)
    return Run(trace, attribute(trace, find_windows(trace)), {name: float(ms) for name, ms in printed})


def check(run: Run) -> list[Check]:
    """Check what holds for every request, alone or among others."""
    requests = run.requests
    n_asked = len(run.client_ms)
    differences_ms = [abs(report.total_ns / 1e6 - run.client_ms[report.request_id]) for report in requests]
    unattributed = [report.phases[Phase.UNATTRIBUTED] / report.total_ns for report in requests]
    names = process_names(run.trace)
    return [
        _check_each("windows", (report.request_id in run.client_ms for report in requests), n_asked),
        Check(
            "window less client's",
            f"{1e3 * max(differences_ms):.1f} us at most",
            f"{1e3 * MAX_DIFFERENCE_MS:.0f} us",
            max(differences_ms) < MAX_DIFFERENCE_MS,
        ),
        Check(
            "unattributed",
            f"{statistics.median(unattributed):.3%} median, {max(unattributed):.3%} worst",
            f"{MAX_MEDIAN_UNATTRIBUTED:.0%}, {MAX_UNATTRIBUTED:.0%}",
            statistics.median(unattributed) <= MAX_MEDIAN_UNATTRIBUTED and max(unattributed) <= MAX_UNATTRIBUTED,
        ),
        _check_each("phases sum to window", (sum(r.phases.values()) == r.total_ns for r in requests), n_asked),
        _check_each("stages in order", map(_is_in_order, requests), n_asked),
        _check_each("path visits all processes", (_visits_all(run, r, names) for r in requests), n_asked),
    ]


def _check_each(what: str, answers: Iterable[bool], n_asked: int) -> Check:
    n_good = sum(answers)
    return Check(what, f"{n_good} of {n_asked}", "all", n_good == n_asked)


def _is_in_order(report: WindowReport) -> bool:
    stages = report.segments.stage.tolist() if report.segments is not None else []
    first = [stages.index(stage) for stage in ORDER if stage in stages]
    return first == sorted(first) and set(stages) >= NEEDED


def _visits_all(run: Run, report: WindowReport, names: dict[int, str]) -> bool:
    tracks = set(report.segments.track.tolist()) if report.segments is not None else set()
    visited = {names.get(run.trace.tracks[track].pid, "") for track in tracks}
    return all(any(name.startswith(process) for name in visited) for process in PROCESSES)


if __name__ == "__main__":
    sys.exit(main())
