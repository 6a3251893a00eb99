"""How sure is the regression gate? Record equal runs and slowed ones by turns, and let it compare them.

    python -m tools.accuracy.gate record runs/ [--model tiny] [--slower 5] [--rounds 32] [--minutes 30]
    python -m tools.accuracy.gate decide runs/... [--comparisons 50]

A round is three runs in a random order: two that are equal, and one whose tokenizer takes so much longer that its later
TTFTs are longer by the given percentage. `decide` gives the recorded runs, in their order and none twice, to what
`slmtrace check --against-env` asks: equal against equal (each regression is a false alarm), and slowed against equal.
Then it draws as many rounds as a comparison may have from all of them, with replacement, for so many comparisons more.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from slmtrace.builtin import RunRequest, default_probes
from slmtrace.model.report import Report
from slmtrace.output.json_ import render_json
from slmtrace.probes.base import RecordOptions
from slmtrace.recording.progress import Progress
from slmtrace.studies.baseline import read_baseline
from slmtrace.studies.check import check
from slmtrace.studies.repeat import LATER, only_series, run_once, series_of
from slmtrace.studies.sequential import Decision
from tools.faults.catalogue import FAULTS

EQUAL, SAME, SLOWED = "equal", "same", "slowed"
_FIRST_RUNS = 4  # tell how long a TTFT is, before any is slowed

Rounds = list[dict[str, Report]]


def main() -> int:
    """Record, or decide."""
    args = _arguments()
    if args.action == "record":
        _record(args)
        return 0
    streams = [_read(directory) for directory in args.runs]
    for name in (SAME, SLOWED):
        in_order = [decision for rounds in streams for decision in _in_order(rounds, name, args)]
        print(f"{name} against equal, in the order recorded: {_count(in_order)}")
    every = [one for rounds in streams for one in rounds]
    for name in (SAME, SLOWED):
        drawn = [_decide(_draw(every, args.max_repeats, seed), name, args)[0] for seed in range(args.comparisons)]
        print(f"{name} against equal, drawn from {len(every)} rounds: {_count(drawn)}")
    return 0


def _record(args: argparse.Namespace) -> None:
    """Keep the breakdown of each run as NUMBER-NAME.json; the slowed are made so by the fault `tokenizer_burns`."""
    probes, progress = default_probes(RecordOptions()), Progress()
    plain = RunRequest(model_name=args.model, n_requests=args.requests)
    until_s, chance = time.monotonic() + args.minutes * 60, random.Random(args.seed)
    first = [series_of(run_once(plain, probes, progress).report)[LATER].total_ns for _ in range(_FIRST_RUNS)]
    extra_s = statistics.median(first[1:]) / 1e9 * args.slower / 100
    with FAULTS["tokenizer_burns"].injected() as setting:
        slowed = replace(plain, environ={**setting.environ, "SLOW_PYTHON_S": str(extra_s)})
        for number in range(args.rounds):
            turns = [(EQUAL, plain), (SAME, plain), (SLOWED, slowed)]
            for name, request in chance.sample(turns, len(turns)):
                report = only_series(run_once(request, probes, progress).report)
                args.runs.mkdir(parents=True, exist_ok=True)
                (args.runs / f"{number:03d}-{name}.json").write_text(render_json(report))
            if time.monotonic() > until_s:
                break


def _read(directory: Path) -> Rounds:
    """Return the whole rounds of a directory in their order."""
    names = sorted(path.stem for path in directory.glob("*.json"))
    reports = dict(zip(names, read_baseline([directory]), strict=True))
    numbers = sorted({name.partition("-")[0] for name in names})
    return [
        {name: reports[f"{number}-{name}"] for name in (EQUAL, SAME, SLOWED)}
        for number in numbers
        if all(f"{number}-{name}" in reports for name in (EQUAL, SAME, SLOWED))
    ]


def _in_order(rounds: Rounds, name: str, args: argparse.Namespace) -> Iterator[Decision]:
    """Compare until the rounds are used up; a comparison that they do not suffice for is none."""
    while rounds:
        decision, n_used = _decide(rounds, name, args)
        if decision is not Decision.UNDECIDED or n_used == args.max_repeats:
            yield decision
        rounds = rounds[n_used:]


def _decide(rounds: Sequence[dict[str, Report]], name: str, args: argparse.Namespace) -> tuple[Decision, int]:
    """Return what the gate says, and how many rounds it wanted."""
    now, before = iter(rounds), iter(rounds)
    result = check(
        [],
        lambda: next(now)[name],
        max_regression=args.max_regression / 100,
        max_repeats=min(args.max_repeats, len(rounds)),
        record_baseline=lambda: next(before)[EQUAL],
    )
    decisions = {one.decision for one in result.verdicts}
    worst = next(one for one in (Decision.REGRESSION, Decision.UNDECIDED, Decision.PASS) if one in decisions)
    return worst, result.n_repeats


def _draw(rounds: Rounds, n: int, seed: int) -> Rounds:
    return random.Random(seed).choices(rounds, k=n)


def _count(decisions: Sequence[Decision]) -> str:
    counts = Counter(decisions)
    return ", ".join(f"{counts[one]} {one.value}" for one in (Decision.PASS, Decision.REGRESSION, Decision.UNDECIDED))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.accuracy.gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    record = actions.add_parser("record")
    record.add_argument("runs", type=Path, help="a directory")
    record.add_argument("--model", default="tiny")
    record.add_argument("--requests", type=int, default=6)
    record.add_argument("--slower", type=float, default=5.0, metavar="PERCENT")
    record.add_argument("--rounds", type=int, default=32)
    record.add_argument("--minutes", type=float, default=1e9, help="begin no round after so many minutes")
    record.add_argument("--seed", type=int, default=0)
    decide = actions.add_parser("decide")
    decide.add_argument("runs", type=Path, nargs="+", help="directories, each recorded by one command")
    decide.add_argument("--comparisons", type=int, default=50)
    decide.add_argument("--max-regression", type=float, default=5.0, metavar="PERCENT")
    decide.add_argument("--max-repeats", type=int, default=32)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
