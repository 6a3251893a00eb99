"""One program under two allocators: the comparison names what they differ in, and says first that they do."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIBRARY = "libjemalloc.so.2"

# glibc gives the freed top of its heap back to the kernel every time; jemalloc keeps it for seconds.
PROGRAM = """
for _ in range(40):
    blocks = [bytearray(4 << 20) for _ in range(8)]
    del blocks
"""


def slmtrace(*arguments: str | Path, preload: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "slmtrace", *map(str, arguments)],
        env={**os.environ, "LD_PRELOAD": preload},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def deltas(comparison: dict[str, Any]) -> dict[str, int]:
    return {cause["name"]: cause["delta_ns"] for cause in comparison["windows"][0]["causes"]}


@pytest.mark.bpf
@pytest.mark.skipif(not ctypes.util.find_library("jemalloc"), reason="jemalloc is not installed (libjemalloc2)")
def test_two_allocators_differ_in_the_faults_on_memory_and_are_named(tmp_path: Path) -> None:
    for name, preload in (("libc", ""), ("jemalloc", LIBRARY)):
        slmtrace("record", "-o", tmp_path / name, "--", sys.executable, "-c", PROGRAM, preload=preload)

    there = json.loads(slmtrace("diff", tmp_path / "libc", tmp_path / "jemalloc", "--format", "json"))
    back = json.loads(slmtrace("diff", tmp_path / "jemalloc", tmp_path / "libc", "--format", "json"))

    window = there["windows"][0]
    faults = [cause for cause in window["causes"] if cause["name"].endswith(("anon_fault", "thp_fault"))]
    assert ("allocator name", "libc", "jemalloc") in {(one["fact"], one["a"], one["b"]) for one in there["unlike"]}
    # Half of the faults are saved, however busy the machine is; what waiting for a CPU did is the machine's.
    assert sum(cause["b"]["count"] for cause in faults) < 0.8 * sum(cause["a"]["count"] for cause in faults)
    moved = {name: ns for name, ns in deltas(there).items() if not name.startswith("scheduler.")}
    assert min(moved, key=lambda name: moved[name]).startswith("allocator.")
    assert deltas(back) == {name: -ns for name, ns in deltas(there).items()}
    assert sum(deltas(there).values()) == window["total"]["delta_ns"]
    text = slmtrace("diff", tmp_path / "libc", tmp_path / "jemalloc").splitlines()
    assert [line.partition(":")[0] for line in text if line.startswith(("UNLIKE", "load"))] == ["UNLIKE", "load"]
