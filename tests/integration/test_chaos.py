"""Killed, starved and interrupted recordings: a short run of tools/chaos.py."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.root
@pytest.mark.bpf
def test_nothing_stays_behind_whoever_is_killed() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.chaos",
            "--rounds",
            "1",
            "--only",
            "recorder",
            "collector",
            "target",
            "worker",
            "disk",
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
