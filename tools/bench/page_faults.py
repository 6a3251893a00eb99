#!/usr/bin/env python3
"""What recording adds to 300,000 page faults. Needs root and eBPF, and 4 GiB of memory.

    python -m tools.bench.page_faults [--turns 15] [--json FILE]

Processes live side by side, one bare, one bare again, one recorded, and do each thing in turn, for the speed of a
machine changes over minutes: `touch` is one store into each page of fresh memory, faults and nothing else; `load` reads
a file of as many pages from the page cache into fresh memory, as a loader of weights does. Printed: the median time,
the median of the turns' ratios to the bare process beside it, and what that adds to a fault. A recorder beside it looks
at a bare process's faults too, and leaves them out: that is in both.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .common import publish

N_FAULTS = 300_000
_PAGE_BYTES = 4096
_THINGS = ("touch", "load")
_WORK = """
import mmap, sys, time
n_bytes = int(sys.argv[1]) * 4096
stores = bytes(n_bytes // 4096)
print("ready", flush=True)
for thing in sys.stdin:
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    view = memoryview(memory)
    begin = time.perf_counter_ns()
    if thing.strip() == "touch":
        view[::4096] = stores
    else:
        with open(sys.argv[2], "rb", buffering=0) as file:
            at = 0
            while at < n_bytes:
                at += file.readinto(view[at : at + (16 << 20)])
    took = time.perf_counter_ns() - begin
    view.release()
    memory.close()
    print("took", took, flush=True)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        took_ns = _measure(Path(scratch), args.turns)
    publish([_row(thing, who, took_ns) for thing in _THINGS for who in took_ns], args.json, turns=args.turns)


def _measure(scratch: Path, n_turns: int) -> dict[str, dict[str, list[int]]]:
    """Return how long each thing took each process in each turn."""
    weights = scratch / "weights"
    weights.write_bytes(bytes(N_FAULTS * _PAGE_BYTES))
    work = [sys.executable, "-c", _WORK, str(N_FAULTS), str(weights)]
    record = [sys.executable, "-m", "slmtrace", "record", "--probes", "ebpf", "-o", str(scratch / "capture"), "--"]
    commands = {"bare": work, "again": work, "recorded": [*record, *work]}
    processes = {who: _start(command) for who, command in commands.items()}
    took_ns: dict[str, dict[str, list[int]]] = {who: {thing: [] for thing in _THINGS} for who in processes}
    for _ in range(n_turns + 1):
        for thing in _THINGS:
            for who in random.sample(list(processes), len(processes)):
                took_ns[who][thing].append(_ask(processes[who], thing))
    for process in processes.values():
        process.communicate()
    # The first turn finds the host's memory as it is.
    return {who: {thing: turns[1:] for thing, turns in things.items()} for who, things in took_ns.items()}


def _start(command: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    _line_of(process, "ready")
    return process


def _ask(process: subprocess.Popen[str], thing: str) -> int:
    assert process.stdin is not None
    process.stdin.write(f"{thing}\n")
    process.stdin.flush()
    return int(_line_of(process, "took").split()[1])


def _line_of(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line
    sys.exit(f"the process ended before it said {word}: exit code {process.wait()}")


def _row(thing: str, who: str, took_ns: dict[str, dict[str, list[int]]]) -> dict[str, object]:
    bare, own = took_ns["bare"][thing], took_ns[who][thing]
    added_ns = [(mine - theirs) / N_FAULTS for mine, theirs in zip(own, bare, strict=True)]
    return {
        "what": thing,
        "process": who,
        "ms": round(statistics.median(own) / 1e6, 1),
        "ratio to bare": round(statistics.median(mine / theirs for mine, theirs in zip(own, bare, strict=True)), 3),
        "ns added to a fault": round(statistics.median(added_ns)),
    }


if __name__ == "__main__":
    main()
