"""What recording costs: load time and TTFT with and without, in interleaved rounds, beside other recorders.

    python -m tools.bench.overhead [--pairs 20] [--requests 20] [--model DIR] [--probes LIST] [--tier light|deep]
        [--json FILE]
    python -m tools.bench.overhead --pairs 5 --beside all          # or --beside torch.profiler strace ...

Each round runs the same program once bare, once under `slmtrace record` and once under each other recorder, in an order
that turns from round to round. What is compared is what the program measured of itself. Printed: the median of the
rounds' ratios to bare, its 95 % bootstrap interval, and what a recorder wrote. A recorder's start counts as load where
the program cannot start before it (viztracer, memray, torch.profiler).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from slmtrace.engines.models import find_model

from .common import publish
from .pairs import compare
from .peers import PEERS, STAMP

WORKLOAD = Path(__file__).resolve().parent / "hf_workload.py"
BARE, OURS = "bare", "slmtrace"

# From the directory that it may write to, the command.
Recorder = Callable[[Path], list[str]]


def main() -> None:
    """Measure and print."""
    args = _arguments()
    recorders = _recorders(args, [str(WORKLOAD), str(find_model(args.model).path), str(args.requests)])
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        _measure(recorders[BARE], Path(scratch))  # fills the caches for all
        for number in range(args.pairs):
            turned = [*recorders][number % len(recorders) :] + [*recorders][: number % len(recorders)]
            rounds.append({name: _measure(recorders[name], Path(scratch)) for name in turned})
            print(f"\rround {number + 1} of {args.pairs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = [
        {
            "recorder": name,
            **compare(what, *([one[side][what] for one in rounds] for side in (BARE, name))),
            "written_mib": round(statistics.median(one[name]["written_bytes"] for one in rounds) / (1 << 20), 2),
        }
        for name in recorders
        if name != BARE
        for what in ("load", "first ttft", "later ttft")
    ]
    publish(rows, args.json, tier=args.tier, malloc=args.malloc, probes=args.probes or "default")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--model", default="tiny", help="a model directory; default: the embedded tiny model")
    parser.add_argument("--beside", nargs="+", choices=["all", *PEERS], default=[], help="other recorders to measure")
    parser.add_argument("--probes", help="as slmtrace record --probes")
    parser.add_argument("--tier", default="light")
    parser.add_argument("--malloc", default="default")
    parser.add_argument("--json", help="write the figures to this file too")
    return parser.parse_args()


def _recorders(args: argparse.Namespace, program: list[str]) -> dict[str, Recorder]:
    """Return how to run the program bare and under each recorder that is wanted."""
    bare = [*STAMP, sys.executable, *program]
    options = ["--tier", args.tier, "--malloc", args.malloc, *(["--probes", args.probes] if args.probes else [])]
    ours = [sys.executable, "-m", "slmtrace", "record", *options]
    found: dict[str, Recorder] = {
        BARE: lambda out: bare,
        OURS: lambda out: [*ours, "-o", str(out / "capture"), "--", *bare],
    }
    for name in PEERS if "all" in args.beside else args.beside:
        peer = PEERS[name]
        if not peer.is_able:
            raise SystemExit(f"{name} cannot run here; try: {peer.install}")
        found[name] = partial(peer.wrap, program)
    return found


def _measure(recorder: Recorder, scratch: Path) -> dict[str, float]:
    """Run once; return what the program measured in ns, and the bytes that were written beside it."""
    out = scratch / "out"
    out.mkdir()
    command = recorder(out)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith('{"load_ns"')]
    if done.returncode != 0 or len(found) != 1:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(found[0])
    written_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    shutil.rmtree(out)
    return {
        "load": measured["load_ns"],
        "first ttft": measured["ttft_ns"][0],
        "later ttft": statistics.median(measured["ttft_ns"][2:]),
        "written_bytes": written_bytes,
    }


if __name__ == "__main__":
    main()
