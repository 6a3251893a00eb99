#!/usr/bin/env python3
"""How many events a second the collector drains without loss, and what that costs it. Needs root and eBPF.

    python -m tools.bench.capture_rate [--seconds 5] [--json FILE]

Processes make system calls as fast as they can, and each is sent as a record (threshold 0). A burst is over before the
ring is full; what is sustained goes on for --seconds. `lost` is by the collector's own books, which must balance.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from slmtrace.capture.directory import Capture
from slmtrace.probes.base import RecordOptions
from slmtrace.probes.ebpf import EbpfProbe

from .common import publish

# Waits for a line on stdin, so that it is enrolled before it begins.
PROGRAM = """
import os, sys, time
n, seconds = int(sys.argv[1]), float(sys.argv[2])
input()
end, call = time.monotonic() + seconds, os.getppid
while time.monotonic() < end and n:
    for _ in range(1000): call()
    n -= 1
"""
ENDLESS = 1 << 40
BURST_CALLS = 300  # thousands


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args()
    rows = [
        _measure("burst, 1 process", 1, BURST_CALLS, args.seconds),
        _measure("sustained, 1 process", 1, ENDLESS, args.seconds),
        _measure("sustained, 2 processes", 2, ENDLESS, args.seconds),
    ]
    publish(rows, args.json, ring_mib=RecordOptions().ring_bytes >> 20)


def _measure(what: str, n_processes: int, n_thousand_calls: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        probe = EbpfProbe()
        probe.start(Capture.create(Path(scratch, "capture")), RecordOptions(threshold_ns=0))
        command = [sys.executable, "-c", PROGRAM, str(n_thousand_calls), str(seconds)]
        targets = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(n_processes)]
        for target in targets:
            probe.enroll(target.pid)
        begun_s = time.monotonic()
        for target in targets:
            assert target.stdin is not None
            target.stdin.write(b"\n")
            target.stdin.close()
        for target in targets:
            target.wait()
        took_s = time.monotonic() - begun_s
        books = probe.stop()
    lost = sum(books.lost.values())
    if books.seen != books.written + lost:
        raise SystemExit(f"{what}: the books do not balance: {books}")
    return {
        "what": what,
        "seconds": round(took_s, 2),
        "events": books.seen,
        "Mev/s": round(books.seen / took_s / 1e6, 3),
        "lost": lost,
        "ring peak %": round(100 * float(books.facts["ring_peak_fraction"])),
        "collector CPU %": round(books.overhead["collector_cpu_ns"] / took_s / 1e7),
    }


if __name__ == "__main__":
    main()
