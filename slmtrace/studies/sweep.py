"""Run a sweep: every point several times, in an order that no drift of the machine can follow; rows survive a kill."""

from __future__ import annotations

import contextlib
import csv
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..errors import CaptureError, UsageError
from ..model.percentiles import ttft_percentiles
from ..model.taxonomy import Phase, WindowKind
from .node_files import borrowed, write_node_file
from .point import Point
from .repeat import FIRST, LATER, LOAD, Run, series_of, size_columns

ROWS_FILE, PLAN_FILE = "rows.jsonl", "sweep.json"
Row = dict[str, Any]
_SERIES = {LOAD: "load", FIRST: "ttft_first", LATER: "ttft_steady"}


def run_sweep(
    kind: str,
    points: Sequence[Point],
    directory: Path,
    run: Callable[[Point], Run],
    *,
    repeats: int,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Record what `directory` does not have yet, and return all rows. A sweep that was ended goes on where it was.

    Raises:
        UsageError: the directory holds another sweep.
        SlmtraceError: a run failed, or a setting cannot be changed.
    """
    _claim(directory, {"kind": kind, "points": [point.name for point in points], "seed": seed})
    rows = read_rows(directory)
    done = {(row["point"], row["repeat"]) for row in rows}
    turns = [turn for turn in order_turns(points, repeats, seed) if (turn[0].name, turn[1]) not in done]
    with contextlib.ExitStack() as stack:
        for path in sorted({path for point, _ in turns for path in point.node_files}):
            stack.enter_context(borrowed(path))
        for number, (point, repeat) in enumerate(turns):
            say(f"run {len(done) + number + 1} of {len(done) + len(turns)}: {point.name}")
            for path, value in point.node_files.items():
                write_node_file(path, value)
            row = make_row(point, repeat, run(point))
            with (directory / ROWS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            rows.append(row)
    return rows


def order_turns(points: Sequence[Point], repeats: int, seed: int) -> list[tuple[Point, int]]:
    """Return every point once a round, each round in another order, the same for the same seed."""
    order = random.Random(seed)
    turns: list[tuple[Point, int]] = []
    for repeat in range(repeats):
        shuffled = list(points)
        order.shuffle(shuffled)
        turns += [(point, repeat) for point in shuffled]
    return turns


def make_row(point: Point, repeat: int, run: Run) -> Row:
    """Return one run as a flat row: the point's values, times in seconds, and each window's phases."""
    row: Row = {"point": point.name, **point.values, "repeat": repeat}
    series = series_of(run.report)
    for label, name in _SERIES.items():
        if label in series:
            row[f"{_load_name(point) if label == LOAD else name + '_s'}"] = series[label].total_ns / 1e9
    for percentile in ttft_percentiles(run.report.windows):
        row[f"ttft_p{percentile.percent}_s"] = percentile.window.total_ns / 1e9
    row |= _answer_columns(point, run)
    row["n_requests"] = sum(window.kind is WindowKind.TTFT for window in run.report.windows)
    row |= size_columns(run)
    for label, name in _SERIES.items():
        if label in series:
            row |= {f"{name}_{phase.label}_s": series[label].phases.get(phase, 0) / 1e9 for phase in Phase}
    return row


def read_rows(directory: Path) -> list[Row]:
    """Read the rows of a sweep; a last line that a kill cut off is dropped.

    Raises:
        CaptureError: a line in the middle is none of ours.
    """
    path = directory / ROWS_FILE
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    try:
        rows = [json.loads(line) for line in whole.splitlines()]
        return [{**row, "point": str(row["point"]), "repeat": int(row["repeat"])} for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise CaptureError(f"{path} is no table of a sweep: {error}", hint="name another directory") from error


def write_tables(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Write rows.csv, and rows.parquet where pyarrow is installed; return what was written."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    written = [directory / "rows.csv"]
    with written[0].open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)
    with contextlib.suppress(ImportError):
        import pyarrow  # noqa: PLC0415
        import pyarrow.parquet  # noqa: PLC0415

        columns = {name: [row.get(name) for row in rows] for name in names}
        pyarrow.parquet.write_table(pyarrow.table(columns), directory / "rows.parquet")
        written.append(directory / "rows.parquet")
    return written


def median_rows(rows: Sequence[Row]) -> list[Row]:
    """Return one row a point, in the order of their first appearance: the median of each number, on its own."""
    by_point: dict[str, list[Row]] = {}
    for row in rows:
        by_point.setdefault(row["point"], []).append(row)
    return [_median_row(group) for group in by_point.values()]


def _median_row(group: Sequence[Row]) -> Row:
    merged: Row = {"n_repeats": len(group)}
    for name in dict.fromkeys(name for row in group for name in row if name != "repeat"):
        values = [row[name] for row in group if name in row]
        is_measured = all(isinstance(value, int | float) for value in values)
        merged[name] = float(median(values)) if is_measured and len(set(values)) > 1 else values[0]
    return merged


def _load_name(point: Point) -> str:
    return f"{point.request.cache}_load_real_s" if point.request.cache else "load_real_s"


def _answer_columns(point: Point, run: Run) -> Mapping[str, float]:
    """Return what the program says of its answers, the first of them left out of what is to be steady."""
    if len(run.answers) < 2:
        return {}
    later = run.answers[1:]
    columns = {"gen_latency_s": float(median(one.latency_s for one in later))}
    spread = max(one.start_s + one.latency_s for one in run.answers) - min(one.start_s for one in run.answers)
    columns["concurrent_s" if point.request.vllm.concurrency > 1 else "sequential_s"] = spread
    if all(one.rss_bytes for one in later):
        columns["rss_drift_bytes"] = float(later[-1].rss_bytes - later[0].rss_bytes)
    return columns


def _claim(directory: Path, plan: Mapping[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / PLAN_FILE
    text = json.dumps(plan, indent=1, sort_keys=True) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UsageError(f"{directory} holds another sweep", hint="name another directory with -o")
    path.write_text(text, encoding="utf-8")
