"""A recording against the kernel's own accounts of the same run."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.root
@pytest.mark.bpf
def test_the_trace_agrees_with_the_kernels_own_accounts() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.crosscheck", "--size-mib", "64"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
