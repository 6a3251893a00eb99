#!/usr/bin/env python3
"""How long it takes until something happens: help, doctor, and the way of a recording to its breakdown.

    python -m tools.bench.startup [--repeats 5] [--json FILE]

Medians in milliseconds. `record: ...` are the parts of `slmtrace record -- true`, in order, as its progress line tells
them; `run: after the target's end` is from the end of a built-in run with the tiny model to its breakdown.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from slmtrace.capture.directory import Capture

from .common import publish

SLMTRACE = [sys.executable, "-m", "slmtrace"]
_PROGRESS = re.compile(rb"slmtrace: ([a-z ]+?) \.\.\. ")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args()
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(args.repeats):
        for name in ("--help", "doctor"):
            samples[name].append(_time([*SLMTRACE, name]))
        for name, taken_ms in _record().items():
            samples[name].append(taken_ms)
        samples["run: after the target's end"].append(_run())
    rows = [
        {"what": name, "median ms": round(statistics.median(taken)), "min": round(min(taken)), "max": round(max(taken))}
        for name, taken in samples.items()
    ]
    publish(rows, args.json, repeats=args.repeats)


def _time(command: list[str]) -> float:
    begun_s = time.perf_counter()
    subprocess.run(command, capture_output=True, check=False)
    return (time.perf_counter() - begun_s) * 1e3


def _record() -> dict[str, float]:
    """Return how long each step of a recording of nothing took, by when a terminal was told of the next."""
    with tempfile.TemporaryDirectory() as scratch:
        moments = _watch([*SLMTRACE, "record", "-o", str(Path(scratch, "capture")), "--", "true"])
    names = [name for name, _ in moments]
    found = {
        f"record: {name}": (then - now) * 1e3
        for (name, now), (_, then) in zip(moments, [*moments[1:], moments[-1]], strict=True)
        if name != names[-1]
    }
    return {**found, "record: in all": (moments[-1][1] - moments[0][1]) * 1e3}


def _watch(command: list[str]) -> list[tuple[str, float]]:
    """Run a command on a terminal; return what its progress line said and when, its begin and its end among them."""
    master, slave = pty.openpty()
    moments = [("imports", time.perf_counter())]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # the last one has closed the terminal
            break
        for text in _PROGRESS.findall(data):
            if text.decode() != moments[-1][0]:
                moments.append((text.decode(), time.perf_counter()))
    process.wait()
    os.close(master)
    return [*moments, ("end", time.perf_counter())]


def _run() -> float:
    """Return the time from the target's end to the first line of the breakdown."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch, "capture")
        process: Any = subprocess.Popen(
            [*SLMTRACE, "run", "-o", str(place)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        shown_ns = 0
        for line in process.stdout:
            if line.startswith("slmtrace"):
                shown_ns = shown_ns or time.monotonic_ns()
        process.wait()
        end_ns = int(Capture.open(place).read_manifest()["target"]["end_ns"])
    return (shown_ns - end_ns) / 1e6


if __name__ == "__main__":
    main()
