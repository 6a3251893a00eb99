"""A baseline: breakdowns of several runs of the same request, in files that anybody can make, keep and read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..capture.json_file import read_json_object
from ..errors import CaptureError, UsageError
from ..model.report import Report
from ..output.json_ import check_conservation

# With fewer, no number of new runs can tell a regression from noise at the level of the test.
MIN_RUNS = 4
MAX_BREAKDOWN_BYTES = 64 << 20


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
        report = Report.from_json(read_json_object(path, MAX_BREAKDOWN_BYTES, follows_links=True))
        if complaints := check_conservation(report.to_json()):
            raise ValueError(complaints[0])
        if any(window.total_ns < 1 for window in report.windows):
            raise ValueError("a window has no length")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptureError(
            f"{path} is no breakdown: {str(error)[:200]}", hint="name a breakdown.json of slmtrace"
        ) from error
    return report
