#!/usr/bin/env python3
"""What recording costs: load time and TTFT with and without, in interleaved pairs.

    tools/bench/overhead.py [--pairs 20] [--requests 20] [--model DIR] [--probes LIST] [--tier light|deep] [--json FILE]

Each pair runs the same program once bare and once under `slmtrace record`, in alternating order. What is compared is
what the program measured of itself. Printed: the median of the pairs' ratios, and its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pairs import compare, print_table

from slmtrace.engines.models import find_model

WORKLOAD = Path(__file__).resolve().parent / "hf_workload.py"


def main() -> None:
    """Measure and print."""
    args = _arguments()
    model = str(find_model(args.model).path)
    stamp = ["sh", "-c", 'SLM_T0=$(date +%s%N) exec "$@"', "sh"]
    program = [*stamp, sys.executable, str(WORKLOAD), model, str(args.requests)]
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        _measure(program)  # fills the caches for both
        for number in range(args.pairs):
            recorded = _recorded(program, Path(scratch) / str(number), args)
            order = (program, recorded) if number % 2 else (recorded, program)
            first, second = (_measure(command) for command in order)
            pairs.append((first, second) if number % 2 else (second, first))
            print(f"\rpair {number + 1} of {args.pairs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = [
        compare(name, *([_value(measured, name) for measured in side] for side in zip(*pairs, strict=True)))
        for name in ("load", "first ttft", "later ttft")
    ]
    print_table(rows)
    if args.json:
        Path(args.json).write_text(json.dumps({**_context(args), "rows": rows}, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--model", default="tiny", help="a model directory; default: the embedded tiny model")
    parser.add_argument("--probes", help="as slmtrace record --probes")
    parser.add_argument("--tier", default="light")
    parser.add_argument("--malloc", default="default")
    parser.add_argument("--json", help="write the figures to this file too")
    return parser.parse_args()


def _recorded(program: list[str], capture: Path, args: argparse.Namespace) -> list[str]:
    options = ["--tier", args.tier, "--malloc", args.malloc, "-o", str(capture)]
    if args.probes:
        options += ["--probes", args.probes]
    return [sys.executable, "-m", "slmtrace", "record", *options, "--", *program]


def _measure(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _value(measured: dict[str, Any], name: str) -> float:
    if name == "load":
        return float(measured["load_ns"])
    if name == "first ttft":
        return float(measured["ttft_ns"][0])
    return float(statistics.median(measured["ttft_ns"][2:]))


def _context(args: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "tier": args.tier,
        "malloc": args.malloc,
        "probes": args.probes or "default",
    }


if __name__ == "__main__":
    main()
