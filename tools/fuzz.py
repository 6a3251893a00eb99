#!/usr/bin/env python3
"""Give damaged captures, traces, profiles, spans and baselines to the command line; look for what must never happen.

    python -m tools.fuzz [--seconds 60] [--seed 0] [--captures DIR...] [--keep DIR]

Each case takes a real capture (those of tests/fixtures, and any that are named), damages some of its files at random
and runs report, diff, bundle, import and the comparison of check on it, in this process. Never: a traceback, an exit
code that means a defect, more than a few seconds, more memory than a bound, or a control character in what is printed.
The same --seed gives the same cases; --keep keeps the inputs of those that failed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from slmtrace.analysis import analyze, write_outputs
from slmtrace.capture.directory import Capture
from slmtrace.cli.main import main as run_command_line
from slmtrace.cli.show import REPORT_FORMATS
from slmtrace.errors import SlmtraceError
from slmtrace.model.report import Report
from slmtrace.studies.baseline import read_baseline
from slmtrace.studies.check import check
from slmtrace.studies.check_output import render_check_junit, render_check_summary, render_check_text

from .fuzzing.damage import Files, damage_capture, damage_json, damage_trace, thin, zip_up

FIXTURES = Path(__file__).resolve().parents[1] / "tests" / "fixtures"
SPANS = (FIXTURES / "vllm-spans.jsonl").read_bytes()
CASE_LIMIT_S = 20
MEMORY_LIMIT_BYTES = 3 << 30
# What a command may answer to bad input: success, a usage error, an unreadable capture, secrets found in a bundle.
GOOD_CODES = frozenset({0, 2, 4, 5})
# Colour is for terminals, and this is none: no escape sequence at all belongs here.
ALLOWED_CONTROLS = frozenset("\n\t")
HARMFUL_CATEGORIES = frozenset({"Cc", "Cs"})
BIDIRECTIONAL = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


_PROFILED = (
    ("user_annotation", "generate"),
    ("cpu_op", "aten::mm"),
    ("cuda_runtime", "cudaLaunchKernel"),
    ("kernel", "gemm"),
    ("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)"),
    ("cuda_runtime", "cudaStreamSynchronize"),
)


class Overdue(BaseException):
    """A case takes too long; not an Exception, so that nothing catches it."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A real capture, and the timeline and the breakdown made of it."""

    files: Files
    trace: bytes
    breakdown: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong in one case."""

    case: str
    what: str


def main() -> int:
    """Run cases until the time is over; the exit code says whether one failed."""
    args = _arguments()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    signal.signal(signal.SIGALRM, _give_up)
    seeds = list(_seeds(args.captures))
    begun_s = time.monotonic()
    counts: Counter[str] = Counter()
    failures: list[Failure] = []
    with tempfile.TemporaryDirectory(prefix="slmtrace-fuzz-") as scratch:
        while time.monotonic() - begun_s < args.seconds:
            case = f"{args.seed}:{sum(counts.values())}"
            place = Path(scratch, "case")
            kind, found = _try_case(case, seeds, place)
            counts[kind] += 1
            failures += found
            for one in found:
                print(f"case {one.case} ({kind}): {one.what}", flush=True)
            if found and args.keep:
                shutil.copytree(place, args.keep / case.replace(":", "-"), dirs_exist_ok=True)
            shutil.rmtree(place)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    told = ", ".join(f"{n} of {kind}" for kind, n in sorted(counts.items()))
    print(f"{sum(counts.values())} cases ({told}) in {time.monotonic() - begun_s:.0f} s, {peak_mib} MiB at most")
    print(f"{len({one.case for one in failures})} cases failed")
    return int(bool(failures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--captures", type=Path, nargs="*", default=[], help="more captures to damage")
    parser.add_argument("--keep", type=Path, help="keep the inputs of failed cases here")
    return parser.parse_args()


def _seeds(captures: list[Path]) -> Iterator[Seed]:
    """Yield captures, thinned so that a case takes a moment."""
    with tempfile.TemporaryDirectory() as scratch:
        for archive in sorted(FIXTURES.glob("*.tar.xz")):
            shutil.unpack_archive(archive, scratch)
        for capture in [*sorted(Path(scratch).iterdir()), *captures]:
            files = {
                str(path.relative_to(capture)): path.read_bytes()
                for path in sorted([capture / "manifest.json", *(capture / "raw").glob("*.bin")])
            }
            files = {name: thin(content) if name.endswith(".bin") else content for name, content in files.items()}
            place = Path(scratch, "thinned", capture.name)
            _write(place, files)
            _outputs(place)
            yield Seed(files, *((place / name).read_bytes() for name in ("trace.pftrace", "breakdown.json")))


def _try_case(case: str, seeds: list[Seed], place: Path) -> tuple[str, list[Failure]]:
    chance = random.Random(case)
    kind = chance.choices([*_CASES], [6, 3, 2, 2, 2])[0]
    place.mkdir()
    faulthandler.dump_traceback_later(3 * CASE_LIMIT_S, exit=True)
    signal.alarm(CASE_LIMIT_S)
    try:
        commands = _CASES[kind](chance, seeds, place)
        return kind, [Failure(case, what) for command in commands for what in _complaints(command, place)]
    except Overdue:
        return kind, [Failure(case, f"took more than {CASE_LIMIT_S} s")]
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()


def _capture_case(chance: random.Random, seeds: list[Seed], place: Path) -> list[list[str]]:
    original = chance.choice(seeds).files
    for name, files in (("a", original), ("b", damage_capture(original, chance))):
        _write(place / name, files)
    damaged, form = str(place / "b"), chance.choice(REPORT_FORMATS)
    commands = [["report", damaged, "--format", form], ["outputs", damaged]]
    commands.append(
        chance.choice(
            [
                ["report", damaged],
                ["diff", str(place / "a"), damaged, "--format", chance.choice(["text", "markdown", "json", "html"])],
                ["bundle", damaged, "-o", str(place / "out.zip"), *chance.choice([[], ["--verify"], ["--hash-paths"]])],
            ]
        )
    )
    return commands


def _trace_case(chance: random.Random, seeds: list[Seed], place: Path) -> list[list[str]]:
    original = chance.choice(seeds).trace
    (place / "a.pftrace").write_bytes(original)
    (place / "b.pftrace").write_bytes(damage_trace(original, chance))
    damaged = str(place / "b.pftrace")
    return [
        *(["report", damaged, "--format", form] for form in REPORT_FORMATS),
        ["diff", damaged, str(place / "a.pftrace")],
    ]


def _profile_case(chance: random.Random, seeds: list[Seed], place: Path) -> list[list[str]]:
    content = damage_json(_profile(chance), chance)
    (place / "p.json").write_bytes(zip_up(content, chance) if chance.random() < 0.2 else content)
    return [["import", str(place / "p.json"), "-o", str(place / "p.pftrace"), *chance.choice([[], ["--range", "gen"]])]]


def _spans_case(chance: random.Random, seeds: list[Seed], place: Path) -> list[list[str]]:
    lines = SPANS.splitlines()
    for _ in range(chance.choice((1, 1, 3))):
        n = chance.randrange(len(lines))
        lines[n] = damage_json(lines[n], chance)
    (place / "s.jsonl").write_bytes(b"\n".join(lines))
    return [["import", str(place / "s.jsonl"), "-o", str(place / "s.pftrace")]]


def _baseline_case(chance: random.Random, seeds: list[Seed], place: Path) -> list[list[str]]:
    original = chance.choice(seeds).breakdown
    n_damaged = chance.choice((1, 4))
    runs = [damage_json(original, chance) if n < n_damaged else original for n in range(4)]
    _write(place / "base", {f"{n}.json": run for n, run in enumerate(runs)})
    (place / "now.json").write_bytes(original)
    return [["gate", str(place / "base"), str(place / "now.json")]]


_CASES = {
    "capture": _capture_case,
    "trace": _trace_case,
    "profile": _profile_case,
    "spans": _spans_case,
    "baseline": _baseline_case,
}


def _profile(chance: random.Random) -> bytes:
    """Return a trace as torch.profiler writes it: annotations, operators, launches, kernels, copies, waits."""
    events = []
    for n in range(60):
        category, name = _PROFILED[n % len(_PROFILED)]
        on_gpu = category in ("kernel", "gpu_memcpy")
        args = {"correlation": n // len(_PROFILED), "device": 0, "stream": 7, "bytes": 4096}
        where = {"pid": 0, "tid": 7} if on_gpu else {"pid": 100, "tid": 101}
        ts, dur = 1000 + 10 * n + chance.random(), 5 + 20 * chance.random()
        events.append({"ph": "X", "cat": category, "name": name, "ts": ts, "dur": dur, "args": args, **where})
    return json.dumps({"schemaVersion": 1, "traceEvents": events}).encode()


def _write(capture: Path, files: Files) -> None:
    for name, content in files.items():
        (capture / name).parent.mkdir(parents=True, exist_ok=True)
        (capture / name).write_bytes(content)


def _complaints(command: list[str], place: Path) -> Iterator[str]:
    """Run a command and yield what must not have happened."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        step = _STEPS.get(command[0])
        code = run_command_line(command) if step is None else _try_step(step, *map(Path, command[1:]))
    shown = " ".join(command).replace(str(place), ".")
    if code not in GOOD_CODES:
        yield f"{shown}: exit code {code}: {err.getvalue()[-400:].strip()}"
    if "Traceback" in err.getvalue():
        yield f"{shown}: a traceback"
    if code and len(err.getvalue()) > 4000:
        yield f"{shown}: a message of {len(err.getvalue())} characters"
    for name, text in (("stdout", out.getvalue()), ("stderr", err.getvalue())):
        harmful = {char for char in set(text) if _is_harmful(char)}
        if harmful:
            yield f"{shown}: {name} has {sorted(map(ascii, harmful))[:5]}"


def _outputs(path: Path) -> None:
    """Write what a recording ends with."""
    capture = Capture.open(path)
    write_outputs(*analyze(capture), capture)


def _gate(base: Path, now: Path) -> None:
    """Compare with a baseline as `slmtrace check` does, which records anew for that."""
    fresh = Report.from_json(json.loads(now.read_bytes()))
    result = check(read_baseline([base]), lambda: fresh, max_regression=0.05, max_repeats=8)
    for render in (render_check_text, render_check_junit, render_check_summary):
        print(render(result))


# What no command does without recording.
_STEPS: dict[str, Callable[..., None]] = {"outputs": _outputs, "gate": _gate}


def _try_step(step: Callable[..., None], *paths: Path) -> int:
    """Return the exit code that the command line would give."""
    try:
        step(*paths)
    except SlmtraceError as error:
        return error.exit_code
    except Exception as error:
        print(f"{where_from(error)}: {error!r}", file=sys.stderr)
        return 1
    return 0


def where_from(error: Exception) -> str:
    """Return the innermost lines of our own that raised an error."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/slmtrace/" in frame.filename]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-3:]))


def _is_harmful(char: str) -> bool:
    if char in ALLOWED_CONTROLS:
        return False
    return unicodedata.category(char) in HARMFUL_CATEGORIES or char in BIDIRECTIONAL


def _give_up(number: int, frame: FrameType | None) -> None:
    raise Overdue


if __name__ == "__main__":
    sys.exit(main())
