"""Damaged captures, traces and profiles: a short run of the fuzzer."""

from __future__ import annotations

import subprocess
import sys


def test_damaged_input_is_explained_or_refused_in_one_message() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.fuzz", "--seconds", "10", "--seed", "3"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
