"""From a fault that was injected to the finding that names it, on a real machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slmtrace.engines.synthesis import make_model
from slmtrace.probes.pagecache import evict_from_page_cache, page_cache_residency

ROOT = Path(__file__).parents[2]
SIZE_BYTES = 384 << 20
BURN = "import time\nuntil = time.process_time() + 1\nwhile time.process_time() < until: pass"
READ = "import sys\nwith open(sys.argv[1], 'rb', buffering=0) as file:\n    while file.read(1 << 20): pass"


def inject(fault: str, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.faults", fault, "--", sys.executable, "-m", "slmtrace", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "cannot be injected" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


def findings(capture: Path, window: str = "load") -> list[dict[str, Any]]:
    report = json.loads((capture / "breakdown.json").read_text())
    return [finding for one in report["windows"] if one["name"] == window for finding in one["findings"]]


@pytest.mark.root
@pytest.mark.bpf
def test_a_cpu_quota_is_named_with_the_time_that_it_took(tmp_path: Path) -> None:
    inject("cpu_quota", "record", "-o", str(tmp_path / "capture"), "--", sys.executable, "-c", BURN)

    found = {finding["id"]: finding for finding in findings(tmp_path / "capture")}

    # One CPU second at 0.6 CPUs takes at least 1.6 s: 0.6 of them are waits, less what the quota saved up before.
    assert found["cpu_quota"]["excess_ns"] >= 300_000_000
    assert "cpu_contention" not in found


@pytest.mark.hf
def test_a_tokenizer_that_sleeps_is_named_in_every_request(tmp_path: Path) -> None:
    make_model("tiny", tmp_path / "tiny")
    capture = tmp_path / "capture"

    inject("tokenizer_sleeps", "run", "--model", str(tmp_path / "tiny"), "-o", str(capture))

    found = [finding for finding in findings(capture, "ttft") if finding["id"] == "slow_tokenizer"]
    assert len(found) == 3
    # 30 ms each, and a call's own work beside it.
    assert min(finding["excess_ns"] for finding in found) >= 25_000_000


@pytest.mark.root
@pytest.mark.bpf
def test_a_cold_file_is_named_and_keeping_it_in_memory_is_the_cure(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(SIZE_BYTES))
    resident_bytes, _ = evict_from_page_cache([data])
    if resident_bytes:
        pytest.skip("the file system keeps its files in memory")
    record = [sys.executable, "-m", "slmtrace", "record", "-o"]
    read = ["--", sys.executable, "-c", READ, str(data)]

    subprocess.run([*record, str(tmp_path / "cold"), *read], check=True, capture_output=True)
    assert page_cache_residency(data)[0] == SIZE_BYTES
    subprocess.run([*record, str(tmp_path / "warm"), *read], check=True, capture_output=True)

    assert {"cold_files", "slow_device"} & {finding["id"] for finding in findings(tmp_path / "cold")}
    assert not [finding for finding in findings(tmp_path / "warm") if finding["phase"] == "storage"]
