#!/usr/bin/env python3
"""How often and for how long a busy thread is interrupted, bare and recorded. Needs root and eBPF.

    python -m tools.bench.interrupts [--seconds 3] [--repeats 5] [--json FILE]

A thread reads the clock without a pause: a gap of 2 to 50 us is an interrupt. Bare and recorded take turns; the medians
of what they had a second are printed. What recording adds are the samples for spin loops.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .common import publish

_WATCH = """
import sys, time
clock, gaps = time.perf_counter_ns, []
begin = last = clock()
end = begin + int(float(sys.argv[1]) * 1e9)
while last < end:
    now = clock()
    if 2_000 < now - last < 50_000: gaps.append(now - last)
    last = now
print("gaps", len(gaps), sum(gaps), last - begin)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args()
    watch = [sys.executable, "-c", _WATCH, str(args.seconds)]
    bare, recorded = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(args.repeats):
            capture = Path(scratch, str(number))
            bare.append(_measure(watch))
            recorded.append(
                _measure(
                    [sys.executable, "-m", "slmtrace", "record", "--probes", "ebpf", "-o", str(capture), "--", *watch]
                )
            )
    rows = [_row("bare", bare), _row("recorded", recorded)]
    added = {name: round(rows[1][name] - rows[0][name], 3) for name in ("interrupts/s", "ms/s")}
    us_each = round(1e3 * added["ms/s"] / max(added["interrupts/s"], 1), 1)
    rows.append({"what": "added", **added, "us each": us_each})
    publish(rows, args.json, repeats=args.repeats)


def _measure(command: list[str]) -> tuple[float, float]:
    """Return interrupts a second, and their ms a second."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    words = next(line for line in done.stdout.splitlines() if line.startswith("gaps")).split()
    n, took_ns, elapsed_ns = (int(word) for word in words[1:])
    return n * 1e9 / elapsed_ns, took_ns * 1e3 / elapsed_ns


def _row(what: str, measured: list[tuple[float, float]]) -> dict[str, Any]:
    per_s, ms_per_s = (statistics.median(column) for column in zip(*measured, strict=True))
    return {
        "what": what,
        "interrupts/s": round(per_s),
        "ms/s": round(ms_per_s, 3),
        "us each": round(1e3 * ms_per_s / per_s, 1),
    }


if __name__ == "__main__":
    main()
