"""Print captures' windows side by side, cause by cause, in milliseconds.

Usage: causes.py CAPTURE...        Each needs its breakdown.json, as every recording leaves it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

_SHOWN_MS = 0.05


def main(captures: list[Path]) -> None:
    reports = [json.loads((capture / "breakdown.json").read_text()) for capture in captures]
    print(f"{'':44}" + "".join(f"{capture.name[-15:]:>16}" for capture in captures))
    for label in ("load 0", "ttft 0", "ttft 1", "ttft 2"):
        columns = [milliseconds(report, label) for report in reports]
        for name in sorted(set().union(*columns), key=lambda name: -max(column.get(name, 0) for column in columns)):
            if max(column.get(name, 0) for column in columns) >= _SHOWN_MS:
                print(f"{label + ' ' + name:44}" + "".join(f"{column.get(name, 0):>16.2f}" for column in columns))


def milliseconds(report: dict[str, Any], label: str) -> dict[str, float]:
    """Return a window's total and causes."""
    for window in report["windows"]:
        if f"{window['name']} {window['index']}" == label:
            causes = {f"{cause['phase']}.{cause['cause']}": cause["ns"] / 1e6 for cause in window["causes"]}
            return {"total": window["total_ns"] / 1e6, **causes}
    return {}


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
