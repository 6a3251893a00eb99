#!/usr/bin/env python3
"""How fast a capture is explained, and in how much memory, at 10^4 to 10^7 events.

    python -m tools.bench.analysis [--events 10000 100000 1000000] [--json FILE]

Each size runs in a process of its own on a synthetic capture (tools/bench/synthetic.py). Printed: events a second for
load (decode, align, merge), for attribution and for both, the seconds from the first byte read to the breakdown's text,
slices a second of the timeline's writer and what a slice takes in its file, as it is and deflated, and the peak memory
over what the imports take, in bytes an event. `--capture DIR` measures a real capture instead.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .common import publish
from .synthetic import make_capture

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)


def main() -> None:
    """Measure each size and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=SIZES)
    parser.add_argument("--capture", type=Path, help="of a recording")
    parser.add_argument("--repeats", type=int, default=3, help="of each size; the fastest counts")
    parser.add_argument("--json", help="write the figures to this file too")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(_measure(args.one)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        rows = [_fastest(place, args.repeats) for place in _captures(args, Path(scratch, "capture"))]
    publish(rows, args.json, repeats=args.repeats)


def _captures(args: argparse.Namespace, place: Path) -> Iterator[Path]:
    """Put what is to be measured in its place, one after the other."""
    if args.capture:
        yield Path(shutil.copytree(args.capture, place))
        return
    for n_events in args.events:
        make_capture(place, n_events)
        yield place
        shutil.rmtree(place)


def _fastest(place: Path, repeats: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "tools.bench.analysis", "--one", str(place)]
    runs = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(repeats)]
    best = {key: min(run[key] for run in runs) for key in runs[0]}
    n = best["events"]
    return {
        "events": n,
        "load Mev/s": round(n / best["load_s"] / 1e6, 2),
        "attribute Mev/s": round(n / best["attribute_s"] / 1e6, 2),
        "both Mev/s": round(n / (best["load_s"] + best["attribute_s"]) / 1e6, 2),
        "text s": round(best["load_s"] + best["attribute_s"] + best["text_s"], 3),
        "write Mslices/s": round(best["slices"] / best["write_s"] / 1e6, 2),
        "bytes/slice": round(best["trace_bytes"] / best["slices"], 1),
        "deflated": round(best["deflated_bytes"] / best["slices"], 1),
        "bytes/event": round(best["peak_bytes"] / n),
        "peak MiB": best["peak_bytes"] >> 20,
    }


def _measure(path: Path) -> dict[str, Any]:
    from slmtrace.analysis import build_report, load  # noqa: PLC0415  (only the measured process needs them)
    from slmtrace.capture.directory import Capture  # noqa: PLC0415
    from slmtrace.output.perfetto import write_perfetto  # noqa: PLC0415
    from slmtrace.output.text import render_text  # noqa: PLC0415

    before_kib = _peak_kib()
    moments = [time.perf_counter()]
    trace = load(Capture.open(path))
    moments.append(time.perf_counter())
    report = build_report(trace)
    moments.append(time.perf_counter())
    render_text(report)
    moments.append(time.perf_counter())
    peak_kib = _peak_kib() - before_kib
    written = write_perfetto(trace, report, path / "trace.pftrace")
    moments.append(time.perf_counter())
    deflated = zlib.compress((path / "trace.pftrace").read_bytes())
    load_s, attribute_s, text_s, write_s = (b - a for a, b in itertools.pairwise(moments))
    decoded = sum(line.decoded for line in trace.ledger)
    return {
        "events": decoded,
        "load_s": load_s,
        "attribute_s": attribute_s,
        "text_s": text_s,
        "write_s": write_s,
        "slices": written.n_slices,
        "trace_bytes": written.size_bytes,
        "deflated_bytes": len(deflated),
        "peak_bytes": peak_kib << 10,
    }


def _peak_kib() -> int:
    """Return the most memory that this program has had so far.

    getrusage's ru_maxrss will not do: it begins with what the parent had, which has just made the capture.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main()
