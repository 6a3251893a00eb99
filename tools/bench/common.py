"""What the benchmarks share: which machine and commit a figure is of, and a table with a JSON file beside it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def context() -> dict[str, Any]:
    """Return where and of what commit the figures are."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def publish(rows: Sequence[Mapping[str, Any]], json_path: str | None, **facts: Any) -> None:
    """Print rows of equal keys as a table, and write them to a JSON file if one is named."""
    where = {**context(), **facts}
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    columns = list(rows[0])
    width = {column: max(len(column), *(len(str(row[column])) for row in rows)) for column in columns}
    print("  ".join(column.rjust(width[column]) for column in columns))
    for row in rows:
        print("  ".join(str(row[column]).rjust(width[column]) for column in columns))
    if json_path:
        Path(json_path).write_text(json.dumps({**where, "rows": list(rows)}, indent=1) + "\n")
