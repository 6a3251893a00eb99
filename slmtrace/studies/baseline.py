"""A baseline: breakdowns of several runs of the same request, in files that anybody can make, keep and read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..errors import CaptureError, UsageError
from ..model.report import Report

# With fewer, no number of new runs can tell a regression from noise at the level of the test.
MIN_RUNS = 4


def read_baseline(paths: Iterable[Path]) -> list[Report]:
    """Read breakdown.json files, and directories that hold such files or captures.

    Raises:
        UsageError: they are fewer than four.
        CaptureError: one cannot be read.
    """
    files = [file for path in paths for file in _files_of(path)]
    if len(files) < MIN_RUNS:
        raise UsageError(
            f"a baseline of {len(files)} run{'s' * (len(files) != 1)} says nothing of the noise; {MIN_RUNS} are needed",
            hint="slmtrace check --write-baseline DIR records 16",
        )
    return [_read(file) for file in files]


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted({*path.glob("*.json"), *path.glob("*/breakdown.json")} - {path / "manifest.json"})
    return [path]


def _read(path: Path) -> Report:
    try:
        return Report.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaptureError(f"{path} is no breakdown: {error}", hint="name a breakdown.json of slmtrace") from error
