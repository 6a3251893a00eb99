"""What recording costs on a GPU: steady TTFT under several recorders, in turns.

Usage: overhead.py MODEL [--workload hf|vllm] [--rounds N] [--seconds N] [--variants LIST] [--cpus LIST] [--json FILE]
In each round every variant starts the same program in a process of its own; once all are up they answer a few requests
each in turn, for so many seconds, while the others wait for theirs: the machine's speed changes over minutes, and equal
processes differ. Printed, for each variant: the median of its TTFTs (the first of each turn is left out), and, for each
round, the median ratio of its turns to those of `bare` beside them. `again` is bare once more: its ratio is the noise.
The variants `cupti` are CUPTI alone, without slmtrace: the least that a recorder of kernels can cost.
Recorders beside it also see a bare process's switches and faults, and leave them out: up to 0.1 us an event in both.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from turns import READY

from slmtrace.instrument.cuda import find_cupti
from slmtrace.probes import shims

HERE = Path(__file__).resolve().parent
# vLLM's cannot be recorded by torch.profiler: its work is in another process.
WORKLOADS = {"hf": HERE / "hf_workload.py", "vllm": HERE / "vllm_workload.py"}
# How each variant records; None: it is not recorded by us.
RECORDERS: dict[str, list[str] | None] = {
    "bare": None,
    "again": None,
    "ranges": ["--probes", "ranges"],
    "cuda": ["--probes", "cuda"],
    "ebpf": ["--probes", "ebpf"],
    "light": [],
    "calls": ["--no-gpu-kernels"],
    "deep": ["--tier", "deep"],
    "profiler": None,
    "profiler-all": None,
    "cupti": None,
    "cupti-pinned": None,
    "cupti-ahead": None,
}
PROFILERS = {"profiler": ["--profile", "cuda"], "profiler-all": ["--profile", "all"]}
# CUPTI alone, without slmtrace, with the light tier's kinds for kernels and copies: the attributes that are set (see
# cupti_control.c). Pinned: its buffers on the host; ahead: eight of them, and of its semaphore pools, from the start.
CONTROLS = {"cupti": "", "cupti-pinned": "8=1", "cupti-ahead": "6=8,7=8"}
CONTROL_KINDS = "17,52,12,10,1,22,2,51"
_FIRST_TOKEN = re.compile(r"^request \d+: .*first token ([\d.]+) ms")
_SETTLING_REQUESTS = 15
_GPU_SHARE = 0.6  # of its memory, for all processes of a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--workload", choices=WORKLOADS, default="hf")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of each round, once its processes are up")
    parser.add_argument("--requests", type=int, default=8, help="of each turn")
    parser.add_argument("--variants", default="bare,again,calls,light,deep,profiler")
    parser.add_argument("--cpus", type=cpu_list, default=default_cpus(), help="default: the last eight allowed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    variants = args.variants.split(",")
    unknown = sorted(set(variants) - set(RECORDERS))
    if unknown or "bare" not in variants:
        parser.error(f"variants are {', '.join(RECORDERS)}; bare is always needed")
    if args.workload == "vllm" and set(variants) & set(PROFILERS):
        parser.error("torch.profiler is for the workload hf")
    if not set(args.cpus) <= os.sched_getaffinity(0):
        parser.error(f"this process may not run on all of the CPUs {args.cpus}")
    os.sched_setaffinity(0, args.cpus)

    command = [sys.executable, str(WORKLOADS[args.workload]), args.model, "--asked", "--new-tokens", "1"]
    if args.workload == "vllm":
        command += ["--memory", f"{_GPU_SHARE / len(variants):.3f}"]
    else:
        command += ["--device", args.device]
    rounds = []
    for number in range(args.rounds):
        processes = start(command, variants, is_parallel=args.workload == "hf")
        rounds.append(take_turns(processes, args.requests, args.seconds))
        rows = [summarise(variant, rounds) for variant in variants]
        print(f"round {number + 1}: {len(rounds[-1]['bare'])} turns of {args.requests} requests", flush=True)
        for row in rows:
            ratios = " ".join(f"{ratio:.3f}" for ratio in row["ratios"])
            figures = f"ttft {row['ttft_ms']:7.2f} ms   ratio {row['ratio']:.3f}   ({ratios})"
            print(f"{row['variant']:14} {figures}", flush=True)
        if args.json:
            args.json.write_text(json.dumps({"cpus": args.cpus, "rounds": rounds, "rows": rows}) + "\n")
        for process in processes:
            process.close()


def default_cpus() -> list[int]:
    """Return the last eight CPUs that this process may use: the first ones serve most interrupts."""
    return sorted(os.sched_getaffinity(0))[-8:]


def cpu_list(text: str) -> list[int]:
    return sorted({int(number) for number in text.split(",")})


class Process:
    """The program under one recorder, which answers as many requests as it is asked for."""

    def __init__(self, variant: str, command: Sequence[str]) -> None:
        self.variant = variant
        self._place = Path(tempfile.mkdtemp())
        command = [*command, "--requests", str(_SETTLING_REQUESTS), *PROFILERS.get(variant, [])]
        recorder = RECORDERS[variant]
        if recorder is not None:
            own = [sys.executable, "-m", "slmtrace", "record", *recorder, "-o", str(self._place / "capture")]
            command = [*own, "--", *command]
        self._errors = (self._place / "stderr").open("w+")
        environ = {**os.environ, **control(variant)}
        self._program = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=environ
        )

    def ttfts_ms(self) -> list[float]:
        """Return the times to first token that it prints until it is ready for more.

        Raises:
            SystemExit: it has ended instead.
        """
        found: list[float] = []
        assert self._program.stdout is not None
        for line in self._program.stdout:
            if line.strip() == READY:
                return found
            if told := _FIRST_TOKEN.match(line):
                found.append(float(told[1]))
        self._errors.seek(0)
        raise SystemExit(f"{self.variant} failed:\n{self._errors.read()[-2000:]}")

    def ask(self, n_requests: int) -> list[float]:
        """Return the times to first token of so many more requests."""
        assert self._program.stdin is not None
        self._program.stdin.write(f"{n_requests}\n")
        self._program.stdin.flush()
        return self.ttfts_ms()

    def close(self) -> None:
        """End it: it is asked for nothing more."""
        self._program.communicate()
        self._errors.close()
        shutil.rmtree(self._place)


def start(command: Sequence[str], variants: Sequence[str], *, is_parallel: bool) -> list[Process]:
    """Start each variant's process, at once or one after another, and wait until all are up."""
    processes = []
    for variant in variants:
        processes.append(Process(variant, command))
        if not is_parallel:
            processes[-1].ttfts_ms()
    if is_parallel:
        for process in processes:
            process.ttfts_ms()
    return processes


def take_turns(processes: Sequence[Process], n_requests: int, limit_s: float) -> dict[str, list[list[float]]]:
    """Return the TTFTs of each variant in ms, turn by turn, the first of each left out."""
    turns: dict[str, list[list[float]]] = {process.variant: [] for process in processes}
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        for process in random.Random(len(turns["bare"])).sample(processes, len(processes)):
            turns[process.variant].append(process.ask(n_requests)[1:])
    return turns


def control(variant: str) -> dict[str, str]:
    """Return the variables by which the driver loads the control of a variant that is one."""
    if variant not in CONTROLS:
        return {}
    library = shims.build(HERE / "cupti_control.c", ["-O2", "-fPIC", "-shared"], "the control")
    return {
        "CUDA_INJECTION64_PATH": str(library),
        "CUPTI_CONTROL_LIBRARY": find_cupti(sys.path),
        "CUPTI_CONTROL_KINDS": CONTROL_KINDS,
        "CUPTI_CONTROL_ATTRIBUTES": CONTROLS[variant],
    }


def summarise(variant: str, rounds: Sequence[dict[str, list[list[float]]]]) -> dict[str, Any]:
    ratios = [
        statistics.median(
            statistics.median(mine) / statistics.median(bare)
            for mine, bare in zip(each[variant], each["bare"], strict=True)
        )
        for each in rounds
    ]
    ttft_ms = statistics.median(ttft for each in rounds for turn in each[variant] for ttft in turn)
    return {"variant": variant, "ttft_ms": ttft_ms, "ratio": statistics.median(ratios), "ratios": ratios}


if __name__ == "__main__":
    main()
