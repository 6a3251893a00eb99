"""Compare lazy and eager module loading: does the first token get faster by what the report called module loading?

Usage: eager.py MODEL [--pairs N] [--json FILE]
Each pair records the transformers workload twice, CUDA_MODULE_LOADING=LAZY and =EAGER, in an order that turns, after
one run that only warms the page cache. Printed for each run, and as the medians of the pairs, in milliseconds: load
without its imports, first TTFT, and how much of both the report calls module loading and library initialisation; then
what EAGER took from the first TTFT, what it took from these two causes in it, and the ratio: 1 where the report is
right. A library that is first used by a request is loaded there all the same, and with EAGER all of it, so both may be
negative.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from recording import recorded_windows

WORKLOAD = Path(__file__).with_name("hf_workload.py")
MODES = ("LAZY", "EAGER")
_CAUSES = ("module_load", "library_init")
_TIMEOUT_S = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    command = [sys.executable, str(WORKLOAD), args.model, "--requests", "1", "--new-tokens", "1"]

    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=_TIMEOUT_S)
    pairs = []
    for number in range(args.pairs):
        order = MODES if number % 2 == 0 else MODES[::-1]
        pairs.append({mode: record(command, mode) for mode in order})
        for mode in MODES:
            print_row(f"pair {number + 1} {mode}", pairs[-1][mode])
    medians = {mode: {key: median(pairs, mode, key) for key in pairs[0][mode]} for mode in MODES}
    for mode in MODES:
        print_row(f"medians {mode}", medians[mode])
    differences = [difference(pair) for pair in pairs]
    for number, (ttft_ms, loading_ms) in enumerate(differences, 1):
        print_difference(f"pair {number}", ttft_ms, loading_ms)
    print_difference("medians", *difference(medians))
    if args.json:
        args.json.write_text(json.dumps({"pairs": pairs, "differences": differences}, indent=1) + "\n")


def record(command: list[str], mode: str) -> dict[str, float]:
    """Record the workload with modules loaded in one way, and return what the breakdown says, in milliseconds."""
    windows = recorded_windows(command, ["--probes", "ranges,cuda"], {"CUDA_MODULE_LOADING": mode})
    found: dict[str, float] = {}
    for name in ("load", "ttft"):
        window = next(window for window in windows if (window["name"], window["index"]) == (name, 0))
        found[name] = (window["total_ns"] - sum_ns(window["stages"], "stage", "import")) / 1e6
        for cause in _CAUSES:
            found[f"{name} {cause}"] = sum_ns(window["causes"], "cause", cause) / 1e6
    return found


def sum_ns(rows: list[dict[str, Any]], key: str, name: str) -> int:
    return sum(int(row["ns"]) for row in rows if row[key] == name)


def median(pairs: list[dict[str, dict[str, float]]], mode: str, key: str) -> float:
    return statistics.median(pair[mode][key] for pair in pairs)


def difference(pair: dict[str, dict[str, float]]) -> tuple[float, float]:
    """Return by how much the first TTFT is shorter when modules are loaded eagerly, and the module loading in it."""
    lazy, eager = (pair[mode] for mode in MODES)
    loading_ms = sum(lazy[f"ttft {cause}"] - eager[f"ttft {cause}"] for cause in _CAUSES)
    return lazy["ttft"] - eager["ttft"], loading_ms


def print_row(label: str, found: dict[str, float]) -> None:
    print(f"{label:14} " + "  ".join(f"{key} {value:.1f}" for key, value in found.items()), flush=True)


def print_difference(label: str, ttft_ms: float, loading_ms: float) -> None:
    ratio = f"{ttft_ms / loading_ms:.3f}" if loading_ms else "undefined"
    print(f"{label:14} eager took {ttft_ms:.1f} ms from the first TTFT, {loading_ms:.1f} ms of loading, ratio {ratio}")


if __name__ == "__main__":
    main()
