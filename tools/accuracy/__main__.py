"""How right are the verdicts? Measure clean and injected runs, and tabulate them.

    python -m tools.accuracy measure runs.jsonl --model DIR [--faults a,b] [--seeds 3] [--clean 10] [--minutes 30]
    python -m tools.accuracy table runs.jsonl [-o traces/ACCURACY.md]

`measure` appends to the file, so that it may be stopped and run again. It needs root for most faults, and a machine
where little else runs: what others took of the CPUs is measured and told.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from tools.faults.catalogue import FAULTS

from .measure import Workload, adopt_orphans, blocks_of, explain_again, fault_names, measure_block, measure_clean
from .table import render_table


def main() -> int:
    """Measure or tabulate."""
    args = _arguments()
    if args.action == "table":
        lines = [json.loads(line) for path in args.runs for line in path.read_text().splitlines()]
        for line in lines if args.again else ():
            for one in filter(
                None, (line.get("clean"), *line.get("injected", {}).values(), *line.get("cured", {}).values())
            ):
                explain_again(one)
        text = render_table(lines)
        (args.output.write_text if args.output else sys.stdout.write)(text)
        return 0
    adopt_orphans()
    workload = Workload(args.model, args.engine, args.requests, args.prompt_tokens, args.keep, args.cures)
    names = args.faults.split(",") if args.faults else [] if args.clean else fault_names(args.engine)
    if unknown := sorted(set(names) - set(FAULTS)):
        sys.exit(f"no such fault: {', '.join(unknown)}; python -m tools.faults --list names them all")
    until_s = time.monotonic() + args.minutes * 60
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for block in blocks_of([FAULTS[name] for name in names], seed):
            if time.monotonic() < until_s:
                for line in measure_block(block, workload, seed):
                    _append(args.runs, line)
    for _ in range(args.clean):
        if time.monotonic() < until_s:
            _append(args.runs, {**workload.facts(), "clean": measure_clean(workload)})
    return 0


def _append(path: Path, line: object) -> None:
    with path.open("a") as file:
        file.write(json.dumps(line, sort_keys=True) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    measure = actions.add_parser("measure")
    measure.add_argument("runs", type=Path)
    measure.add_argument("--model", type=Path, required=True, help="a model directory")
    measure.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    measure.add_argument("--faults", help="names from python -m tools.faults --list  [all that are tested]")
    measure.add_argument("--seeds", type=int, default=1)
    measure.add_argument("--first-seed", type=int, default=0)
    measure.add_argument("--requests", type=int, default=5)
    measure.add_argument("--prompt-tokens", type=int, default=128)
    measure.add_argument("--keep", type=Path, help="keep the captures in this directory")
    measure.add_argument("--cures", action="store_true", help="follow the recommendations too, and measure the gain")
    measure.add_argument("--minutes", type=float, default=1e9, help="begin nothing after so many minutes")
    measure.add_argument("--clean", type=int, default=0, help="so many clean runs by themselves")
    table = actions.add_parser("table")
    table.add_argument("runs", type=Path, nargs="+")
    table.add_argument("--again", action="store_true", help="explain the captures that were kept by the present rules")
    table.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
