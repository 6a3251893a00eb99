"""Which part of a recorded load is the instrument's own code: py-spy samples the program while it is recorded.

    python -m tools.bench.instrument_share [--model DIR] [--repeats 1] [--rate 100]

Printed for each run: samples of running threads, and how many of them have the instrument's code innermost. A share has
no need of a second run to be compared with, so it says something where equal runs differ by more than what recording
costs; what the instrument makes slower elsewhere (caches, the kernel's work for its pages) is not in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from slmtrace.engines.models import find_model
from slmtrace.probes.pyspy import find_pyspy

from .common import publish

WORKLOAD = Path(__file__).with_name("hf_workload.py")
_INSTRUMENT = "slmtrace/instrument/"


def main() -> None:
    """Sample and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--rate", type=int, default=100, help="samples a second")
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args()
    model = find_model(args.model)
    publish([_sample(str(model.path), args.rate) for _ in range(args.repeats)], args.json, rate=args.rate)


def _sample(model: str, rate: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        stacks = Path(scratch, "stacks")
        options = ["--rate", str(rate), "--format", "raw", "--output", str(stacks)]
        spied = [find_pyspy() or "py-spy", "record", *options, "--"]
        recorder = [
            sys.executable,
            "-m",
            "slmtrace",
            "record",
            "--probes",
            "ranges",
            "-o",
            str(Path(scratch, "capture")),
        ]
        program = [sys.executable, str(WORKLOAD), model, "1"]
        environ = {**os.environ, "SLM_T0": str(time.time_ns())}
        subprocess.run([*recorder, "--", *spied, *program], env=environ, check=True, capture_output=True)
        counts = [line.rpartition(" ") for line in stacks.read_text().splitlines()]
    n_all = sum(int(count) for _, _, count in counts)
    n_own = sum(int(count) for stack, _, count in counts if _INSTRUMENT in stack.rpartition(";")[2])
    return {"samples": n_all, "in the instrument": n_own, "percent": round(100 * n_own / n_all, 2)}


if __name__ == "__main__":
    main()
