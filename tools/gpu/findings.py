"""Record a workload many times undisturbed, and count its findings: each must be true of every run, or noise.

Usage: findings.py MODEL [--workload hf|vllm] [--runs N] [--seconds N] [--json FILE]
Begins no recording after so many seconds. Printed is, for each window and finding, in how many runs it was, the median
of its excess and its range, and what the finding says in one of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from overhead import WORKLOADS
from recording import recorded_windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--workload", choices=WORKLOADS, default="hf")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    command = [sys.executable, str(WORKLOADS[args.workload]), args.model]
    until_s = time.monotonic() + args.seconds
    runs: list[list[dict[str, Any]]] = []
    while len(runs) < args.runs and time.monotonic() < until_s:
        runs.append([_finding_part(window) for window in recorded_windows(command)])
        if args.json:
            args.json.write_text(json.dumps(runs) + "\n")
    print(f"{len(runs)} runs")
    print_findings(runs)


def _finding_part(window: dict[str, Any]) -> dict[str, Any]:
    label = f"{window['name']} {window['index']}"
    return {"label": label, "total_ns": window["total_ns"], "findings": window["findings"]}


def print_findings(runs: list[list[dict[str, Any]]]) -> None:
    found: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for number, run in enumerate(runs):
        for window in run:
            for finding in window["findings"]:
                found[window["label"], finding["id"]].append((number, finding))
    for (label, name), rows in sorted(found.items()):
        excesses_ms = [finding["excess_ns"] / 1e6 for _, finding in rows]
        totals_ms = [window["total_ns"] / 1e6 for run in runs for window in run if window["label"] == label]
        print(
            f"{label}: {name}: in {len({number for number, _ in rows})} runs, {statistics.median(excesses_ms):.2f} ms "
            f"({min(excesses_ms):.2f} to {max(excesses_ms):.2f}) of {statistics.median(totals_ms):.2f} ms: "
            f"{rows[0][1]['evidence']}"
        )


if __name__ == "__main__":
    main()
