"""Record clean runs and injected ones side by side, and keep of each what the comparison needs."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.faults.__main__ import run
from tools.faults.base import Fault, Impossible, Setting
from tools.faults.catalogue import FAULTS
from tools.faults.undo import Undo

# Options without which a fault cannot be seen, for both runs of its pair.
_OPTIONS = {"malloc_delay": ("--malloc", "slow"), "arena_contention": ("--malloc", "slow")}

_PATIENCE_S, _LOOK_S, _QUIET_SHARE = 5, 1, 0.05
_PR_SET_CHILD_SUBREAPER = 36
_BLOCK = 4  # faults that share a clean run


@dataclass(frozen=True, slots=True)
class Workload:
    """What both kinds of run do."""

    model: Path
    engine: str = "hf"
    n_requests: int = 5
    n_prompt_tokens: int = 128
    keep: Path | None = None  # where captures stay, to be explained again
    has_cures: bool = False  # record each fault once more, with what its finding recommends

    def facts(self) -> dict[str, Any]:
        """Return what the lines of a measurement say of it."""
        return {
            "engine": self.engine,
            "model": self.model.name,
            "requests": self.n_requests,
            "prompt_tokens": self.n_prompt_tokens,
        }


def measure_block(faults: Sequence[Fault], workload: Workload, seed: int) -> Iterator[dict[str, Any]]:
    """Record a clean run, then one with each of a few faults; yield a line for each pair as soon as it is whole."""
    options = _OPTIONS.get(faults[0].name, ())
    line = {**workload.facts(), "options": options, "seed": seed, "clean": measure_clean(workload, options)}
    for fault in faults:
        try:
            pair = {**line, "injected": {fault.name: _measure_fault(fault, workload, options)}}
            if workload.has_cures and fault.cure is not None:
                pair["cured"] = {fault.name: _measure_fault(fault, workload, options, is_cured=True)}
            yield pair
        except Impossible as error:
            yield {**line, "impossible": {fault.name: str(error)}}


def _measure_fault(
    fault: Fault, workload: Workload, options: Sequence[str], *, is_cured: bool = False
) -> dict[str, Any]:
    def record() -> dict[str, Any]:
        with fault.injected(workload.model, is_cured=is_cured) as setting:
            return _record(workload, options, setting)

    return _between_laps(workload, record)


def blocks_of(faults: Sequence[Fault], seed: int) -> list[list[Fault]]:
    """Divide faults into blocks that one clean run serves: few, of the same options."""
    shuffled = random.Random(seed).sample(list(faults), len(faults))
    blocks = []
    for options in dict.fromkeys(_OPTIONS.get(fault.name, ()) for fault in shuffled):
        alike = [fault for fault in shuffled if _OPTIONS.get(fault.name, ()) == options]
        blocks += [alike[at : at + _BLOCK] for at in range(0, len(alike), _BLOCK)]
    return blocks


def prepare(workload: Workload) -> None:
    """Read the model's files into the page cache, and wait a few seconds for a quiet moment."""
    for path in workload.model.glob("*"):
        if path.is_file():
            path.read_bytes()
    wait_until_quiet()


def wait_until_quiet() -> None:
    """Wait until nothing else uses the CPUs, a few seconds at most."""
    until_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until_s:
        busy_s = _busy_s()
        time.sleep(_LOOK_S)
        if _busy_s() - busy_s < _QUIET_SHARE * _LOOK_S * (os.cpu_count() or 1):
            break


def measure_clean(workload: Workload, options: Sequence[str] = ()) -> dict[str, Any]:
    """Record a clean run."""
    with Undo() as undo:
        return _between_laps(workload, lambda: _record(workload, options, Setting(undo, workload.model)))


def _between_laps(workload: Workload, record: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Record between two laps: the speed of a virtual machine's CPUs changes with its neighbours, unseen."""
    prepare(workload)
    before_s = lap_s()
    made = record()
    return {**made, "lap_s": round((before_s + lap_s()) / 2, 5)}


def lap_s() -> float:
    """Return how long a fixed computation takes now, the fastest of three times, in s."""
    laps = []
    for _ in range(3):
        start_s = time.monotonic()
        sum(range(3_000_000))
        laps.append(time.monotonic() - start_s)
    return min(laps)


def _record(workload: Workload, options: Sequence[str], setting: Setting) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="slmtrace-accuracy-") as scratch:
        capture, log = (workload.keep or Path(scratch)) / uuid.uuid4().hex, Path(scratch) / "log"
        command = [sys.executable, "-m", "slmtrace", "run", "--engine", workload.engine]
        command += ["--model", str(workload.model), "--requests", str(workload.n_requests)]
        command += ["--prompt-tokens", str(workload.n_prompt_tokens), *options, "-o", str(capture)]
        start_s, busy_before, own_before = time.monotonic(), _busy_s(), _own_s()
        done = run(command, setting, log)
        cpus_s = (time.monotonic() - start_s) * (os.cpu_count() or 1)
        others = ((_busy_s() - busy_before) - (_own_s() - own_before)) / cpus_s
        if done.returncode:
            return {"failed": log.read_text(errors="replace").strip().splitlines()[-1:]}
        report = json.loads((capture / "breakdown.json").read_text())
        made: dict[str, Any] = {"others_share": round(max(others, 0.0), 4), "windows": _windows(report)}
        return {**made, "capture": str(capture)} if workload.keep else made


def explain_again(run: dict[str, Any]) -> None:
    """Put what the present rules say of a kept capture into its line."""
    if "capture" in run:
        command = [sys.executable, "-m", "slmtrace", "report", run["capture"], "--format", "json"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        run["windows"] = _windows(json.loads(done.stdout))


def _windows(report: dict[str, Any]) -> dict[str, Any]:
    """Return the load, the first request, and of the later ones the median one, each with what is compared."""
    loads = [window for window in report["windows"] if window["name"] == "load"]
    requests = sorted((window for window in report["windows"] if window["name"] == "ttft"), key=lambda w: w["index"])
    later = sorted(requests[1:], key=lambda window: window["total_ns"])
    chosen = {"load": loads[:1], "first ttft": requests[:1], "ttft": later[(len(later) - 1) // 2 :][:1]}
    return {
        name: {
            "total_ns": window["total_ns"],
            "causes": {cause["cause"]: cause["ns"] for cause in window["causes"]},
            "findings": [
                {key: finding[key] for key in ("id", "excess_ns", "predicted_gain_ns")}
                for finding in window["findings"]
            ],
        }
        for name, found in chosen.items()
        for window in found
    }


def _busy_s() -> float:
    """Return how long all CPUs of the machine were busy, in s (proc(5), /proc/stat: ticks)."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return float(sum(fields) - fields[3] - fields[4]) / float(os.sysconf("SC_CLK_TCK"))


def _own_s() -> float:
    _reap_orphans()
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def adopt_orphans() -> None:
    """Become the parent of processes whose own ends first, as an engine's may: their CPU time is ours (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_orphans() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def fault_names(engine: str) -> list[str]:
    """Return the faults that have causes to be held against with an engine, on a machine without a GPU."""
    able = [fault for fault in FAULTS.values() if fault.expects and fault.is_tested]
    return [fault.name for fault in able if not fault.needs_engine or fault.needs_engine == engine]


def median(values: Sequence[float]) -> float:
    """Return the median, 0 of nothing."""
    return statistics.median(values) if values else 0.0
