"""How right are the verdicts? Measure pairs of runs, and tabulate them.

    python -m tools.accuracy measure pairs.jsonl --model DIR [--faults a,b] [--seeds 3] [--clean 10]
    python -m tools.accuracy table pairs.jsonl [-o traces/ACCURACY.md]

`measure` appends to the file, so that it may be stopped and run again. It needs root for most faults, and a machine
where nothing else runs: what others took of the CPUs is measured, and pairs that they disturbed are not counted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tools.faults.base import Impossible
from tools.faults.catalogue import FAULTS

from .measure import fault_names, measure_clean, measure_pair, warm
from .table import render_table


def main() -> int:
    """Measure or tabulate."""
    args = _arguments()
    if args.action == "table":
        lines = [json.loads(line) for line in args.pairs.read_text().splitlines()]
        text = render_table(lines)
        (args.output.write_text if args.output else sys.stdout.write)(text)
        return 0
    warm(args.model)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for name in args.faults.split(",") if args.faults else fault_names() if not args.clean else []:
            try:
                pair = measure_pair(FAULTS[name], args.model, args.engine, seed)
            except Impossible as error:
                pair = {"fault": name, "model": args.model.name, "engine": args.engine, "impossible": str(error)}
            _append(args.pairs, pair)
    for number in range(args.clean):
        clean = measure_clean(args.model, args.engine)
        _append(args.pairs, {"model": args.model.name, "engine": args.engine, "seed": number, "clean": clean})
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
    measure.add_argument("pairs", type=Path)
    measure.add_argument("--model", type=Path, required=True, help="a model directory")
    measure.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    measure.add_argument("--faults", help="names from python -m tools.faults --list  [all that are tested]")
    measure.add_argument("--seeds", type=int, default=1)
    measure.add_argument("--first-seed", type=int, default=0)
    measure.add_argument("--clean", type=int, default=0, help="so many clean runs by themselves")
    table = actions.add_parser("table")
    table.add_argument("pairs", type=Path)
    table.add_argument("-o", "--output", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
