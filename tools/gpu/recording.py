"""Record a program once, and read what the breakdown says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_TIMEOUT_S = 300


def recorded_windows(
    command: Sequence[str], options: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return the windows of a recording's breakdown.json; `environ` is set beside the present environment.

    Raises:
        SystemExit: the recording failed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        capture = Path(temporary, "capture")
        recorder = [sys.executable, "-m", "slmtrace", "record", *options, "-o", str(capture), "--"]
        done = subprocess.run(
            [*recorder, *command],
            env={**os.environ, **(environ or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
        if done.returncode:
            sys.exit(f"the recording failed ({done.returncode}):\n{done.stderr[-2000:]}")
        windows: list[dict[str, Any]] = json.loads((capture / "breakdown.json").read_text())["windows"]
        return windows
