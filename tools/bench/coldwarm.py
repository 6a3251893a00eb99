"""Cold against warm: does the breakdown say where the difference went?

    python -m tools.bench.coldwarm [--model DIR] [--pairs 3] [--json FILE]

Records interleaved cold and warm runs of one model (default: a 0.5 GB one, made for it) and prints, from the breakdowns
alone: what the page cache read of the weight files, how much of the difference the storage phase explains,
what warm runs still waited for devices, and what stayed unattributed. The totals are those of load and first request
together: on a CPU, mapped weights are read partly while loading and partly by the first forward pass. Imports, most of
a load, end before a weight is read and come from memory in both: the difference is also given without them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DEVICE_WAITS = ("block_io_wait", "major_fault", "readahead_wait")
HALF_GIGABYTE = ("qwen2.5-1.5b", "--scale", "0.5", "--layers", "12")


def main() -> None:
    """Record, compare, print."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(args.model) if args.model else _make_model(Path(scratch) / "model")
        weights = _weight_files(model)
        runs: dict[str, list[dict[str, Any]]] = {"cold": [], "warm": []}
        for pair in range(args.pairs):
            # Whichever comes first finds another machine: they take turns.
            for state in ("cold", "warm") if pair % 2 else ("warm", "cold"):
                runs[state].append(_record(model, state, Path(scratch) / f"{state}{pair}"))
    rows = _rows(runs, weights)
    for name, value in rows.items():
        print(f"{name:58}{value:>14}")
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model directory")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file too")
    return parser.parse_args()


def _make_model(path: Path) -> Path:
    name, *options = HALF_GIGABYTE
    subprocess.run([sys.executable, "-m", "slmtrace", "model", name, str(path), *options], check=True)
    return path


def _weight_files(model: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in model.glob("*.safetensors")}


def _record(model: Path, state: str, capture: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "slmtrace", "run", "--model", str(model), f"--{state}", "-o", str(capture)]
    # One short request: what the page cache does not touch should add as little noise as it can.
    command += ["--requests", "1", "--prompt-tokens", "16", "--require", "ebpf"]
    subprocess.run(command, check=True, capture_output=True)
    breakdown: dict[str, Any] = json.loads((capture / "breakdown.json").read_text())
    return breakdown


def _rows(runs: dict[str, list[dict[str, Any]]], weights: dict[str, int]) -> dict[str, str]:
    size = sum(weights.values())
    cold, warm = ([_together(run, weights) for run in runs[state]] for state in ("cold", "warm"))
    keys = ("total", "storage", "total outside imports", "storage outside imports")
    difference, explained, outside, explained_outside = (_difference(cold, warm, key) for key in keys)
    every = [window for state in runs.values() for run in state for window in run["windows"]]
    by_phase = {
        f"  {phase}, cold less warm, ms": f"{_difference(cold, warm, phase) / 1e6:,.0f}"
        for phase in every[0]["phases"]
        if _median(cold, phase) or _median(warm, phase)
    }
    return {
        "cold load + first ttft, ms": f"{_median(cold, 'total') / 1e6:,.0f}",
        "warm load + first ttft, ms": f"{_median(warm, 'total') / 1e6:,.0f}",
        "cold less warm, ms (median of the pairs)": f"{difference / 1e6:,.0f}",
        "weight files, bytes": f"{size:,}",
        "read of them when cold, bytes (median)": f"{_median(cold, 'read'):,.0f}",
        "read of them when warm, bytes (median)": f"{_median(warm, 'read'):,.0f}",
        **by_phase,
        "difference that storage explains": f"{100 * explained / difference:.1f} %",
        "difference outside imports, ms": f"{outside / 1e6:,.0f}",
        "difference outside imports that storage explains": f"{100 * explained_outside / outside:.1f} %",
        "warm: share of load that waited for devices": f"{100 * _median(warm, 'device_share'):.2f} %",
        "warm: faults on cached file pages, count": f"{_median(warm, 'file_faults'):,.0f}",
        "warm: faults on cached file pages, ms": f"{_median(warm, 'file_fault_ns') / 1e6:.1f}",
        "unattributed, worst load": f"{100 * _worst(every, 'load'):.3f} %",
        "unattributed, worst ttft": f"{100 * _worst(every, 'ttft'):.3f} %",
    }


def _together(run: dict[str, Any], weights: dict[str, int]) -> dict[str, float]:
    """Sum load and first request; of a phase, or outside of imports."""
    windows = [window for window in run["windows"] if window["index"] == 0]
    load = next(window for window in windows if window["name"] == "load")
    causes = [cause for window in windows for cause in window["causes"]]
    files = [entry for cause in causes for entry in cause["detail"].get("files", []) if cause["cause"] in DEVICE_WAITS]
    faults = [cause for cause in causes if cause["cause"] == "file_minor_fault"]
    stages = [stage for window in windows for stage in window["stages"] if stage["stage"] != "import"]
    return {
        "total": sum(window["total_ns"] for window in windows),
        "total outside imports": sum(stage["ns"] for stage in stages),
        "storage outside imports": sum(stage["phases"]["storage"] for stage in stages),
        **{phase: sum(window["phases"][phase] for window in windows) for phase in load["phases"]},
        "read": sum(entry["bytes"] for entry in files if Path(entry["name"]).name in weights),
        "device_share": sum(c["ns"] for c in load["causes"] if c["cause"] in DEVICE_WAITS) / load["total_ns"],
        "file_faults": sum(cause["count"] for cause in faults),
        "file_fault_ns": sum(cause["ns"] for cause in faults),
    }


def _difference(cold: list[dict[str, float]], warm: list[dict[str, float]], key: str) -> float:
    """Return the median difference of the pairs."""
    return statistics.median(one[key] - other[key] for one, other in zip(cold, warm, strict=True))


def _median(rows: list[dict[str, float]], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def _worst(windows: list[dict[str, Any]], name: str) -> float:
    return max(float(w["phases"]["unattributed"] / w["total_ns"]) for w in windows if w["name"] == name)


if __name__ == "__main__":
    main()
