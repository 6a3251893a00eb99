"""What recording costs on a GPU: steady TTFT under several recorders, in interleaved rounds.

Usage: overhead.py MODEL [--workload hf|vllm] [--seconds N] [--requests N] [--variants LIST] [--cpus LIST] [--json FILE]
Each round runs the same program once a variant, each in a process of its own, in an order that turns with the rounds;
rounds go on while they fit into the seconds. Printed, for each variant: the median of its TTFTs (the first third of
each process's requests is left out), the median over the rounds of its ratio to `bare`, and the ratios themselves.
The variants `cupti` are CUPTI alone, without slmtrace: the least that a recorder of kernels can cost.
All processes are kept on the same two CPUs: without that, equal ones differ by a factor of two.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slmtrace.instrument.cuda import find_cupti
from slmtrace.probes import shims

HERE = Path(__file__).resolve().parent
# vLLM's cannot be recorded by torch.profiler: its work is in another process.
WORKLOADS = {"hf": HERE / "hf_workload.py", "vllm": HERE / "vllm_workload.py"}
# How each variant records; None: it is not recorded by us.
RECORDERS: dict[str, list[str] | None] = {
    "bare": None,
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
_FIRST_TOKEN = re.compile(r"^request \d+: .*first token ([\d.]+) ms", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--workload", choices=WORKLOADS, default="hf")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--requests", type=int, default=45)
    parser.add_argument("--variants", default="bare,calls,light,deep,profiler")
    parser.add_argument("--cpus", type=cpu_list, default=default_cpus(), help="default: the last two allowed")
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

    rounds = measure([str(WORKLOADS[args.workload]), args.model], variants, args.requests, args.seconds)
    rows = [summarise(variant, rounds) for variant in variants]
    cpus = ",".join(map(str, args.cpus))
    print(f"{len(rounds)} rounds, {args.requests} requests each, on the CPUs {cpus}")
    for row in rows:
        ratios = " ".join(f"{ratio:.3f}" for ratio in row["ratios"])
        print(f"{row['variant']:14} ttft {row['ttft_ms']:8.3f} ms   ratio {row['ratio']:.4f}   ({ratios})")
    if args.json:
        args.json.write_text(json.dumps({"cpus": args.cpus, "rounds": rounds, "rows": rows}, indent=1) + "\n")


def default_cpus() -> list[int]:
    """Return the last two CPUs that this process may use: the first ones serve most interrupts."""
    return sorted(os.sched_getaffinity(0))[-2:]


def cpu_list(text: str) -> list[int]:
    return sorted({int(number) for number in text.split(",")})


def measure(workload: list[str], variants: list[str], n_requests: int, limit_s: float) -> list[dict[str, list[float]]]:
    """Return the steady TTFTs of each variant, round by round."""
    until_s = time.monotonic() + limit_s
    rounds: list[dict[str, list[float]]] = []
    longest_s = 0.0
    while not rounds or time.monotonic() + longest_s < until_s:
        begin_s, turn = time.monotonic(), len(rounds) % len(variants)
        order = variants[turn:] + variants[:turn]
        rounds.append({variant: steady_ttfts(variant, workload, n_requests) for variant in order})
        longest_s = max(longest_s, time.monotonic() - begin_s)
        medians = {variant: f"{statistics.median(ttfts):.2f}" for variant, ttfts in rounds[-1].items()}
        print(f"round {len(rounds)}: {longest_s:.0f} s, {medians}", flush=True)
    return rounds


def steady_ttfts(variant: str, workload: list[str], n_requests: int) -> list[float]:
    options = ["--requests", str(n_requests), "--new-tokens", "1", *PROFILERS.get(variant, [])]
    command = [sys.executable, *workload, *options]
    recorder = RECORDERS[variant]
    capture = Path(tempfile.mkdtemp()) / "capture"
    if recorder is not None:
        command = [sys.executable, "-m", "slmtrace", "record", *recorder, "-o", str(capture), "--", *command]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=200, env={**os.environ, **control(variant)}
    )
    shutil.rmtree(capture.parent)
    found = [float(text) for text in _FIRST_TOKEN.findall(done.stdout)]
    if done.returncode or len(found) != n_requests:
        raise SystemExit(f"{variant} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return found[n_requests // 3 :]


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


def summarise(variant: str, rounds: list[dict[str, list[float]]]) -> dict[str, object]:
    ratios = [statistics.median(each[variant]) / statistics.median(each["bare"]) for each in rounds]
    ttft_ms = statistics.median(ttft for each in rounds for ttft in each[variant])
    return {"variant": variant, "ttft_ms": ttft_ms, "ratio": statistics.median(ratios), "ratios": ratios}


if __name__ == "__main__":
    main()
