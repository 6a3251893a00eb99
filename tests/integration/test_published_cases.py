"""Slow starts and first tokens that others have published, in shape: each is recorded, and the report names it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slmtrace.engines.synthesis import make_model
from slmtrace.probes.pagecache import evict_from_page_cache
from tools.faults.undo import Undo

pytestmark = [pytest.mark.root, pytest.mark.bpf]

ROOT = Path(__file__).parents[2]
WEIGHTS_BYTES = 64 << 20
CGROUPS = Path("/sys/fs/cgroup")
PATIENCE_S = 120
BUSY = ("cpu_contention", "too_many_threads")

# Weights on a mapping that nobody reads ahead of (vllm#24469, #39422, sglang#7469).
MAPPED_LOAD = """
import mmap, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as weights:
    weights.madvise(mmap.MADV_RANDOM)
    sum(weights[offset] for offset in range(0, len(weights), mmap.PAGESIZE))
"""

# A large buffer where huge pages have to be made first (TensorRT-LLM#15430, ik_llama.cpp#2010).
BIG_ALLOCATION = """
buffer = bytearray(1 << 30)
buffer[::4096] = bytes(len(buffer) // 4096)
"""

LOAD = """
import sys, time
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
def answer():
    inputs = tokenizer("the quick brown fox", return_tensors="pt")
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
"""

# The load has ended, nothing was compiled, and the first request pays for it (vllm#47456, #16858).
COMPILE_AT_FIRST_USE = (
    LOAD
    + """
model.model.norm.compile()
for _ in range(2): answer()
"""
)

# The same where no hook is around it: a C compiler builds what the first request needs (FlashInfer in vllm#47456).
BUILD_AT_FIRST_USE = (
    LOAD
    + """
import subprocess
def build(*_):
    hook.remove()
    code = "".join(f"double f{n}(double x) {{ return x * {n} + f{n - 1}(x) / 3; }}\\n" for n in range(1, 2000))
    code = "double f0(double x) { return x; }\\n" + code
    subprocess.run(["gcc", "-O1", "-shared", "-xc", "-", "-o", sys.argv[2]], input=code.encode(), check=True)
hook = model.register_forward_pre_hook(build)
for _ in range(2): answer()
"""
)

# A server that had nothing to do for a while (vllm#31602).
IDLE = (
    LOAD
    + """
for _ in range(3): answer()
idle = Path(sys.argv[2])
idle.touch()
while idle.exists(): time.sleep(0.1)
for _ in range(2): answer()
"""
)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Make a memory cgroup of the test's own."""
    base = CGROUPS / "memory" if (CGROUPS / "memory/cgroup.procs").exists() else CGROUPS
    path = base / f"slmtrace-test-{uuid.uuid4().hex[:8]}"
    with Undo() as undo:
        undo.remove_cgroup(path)
        path.mkdir()
        if not any((path / name).exists() for name in ("memory.force_empty", "memory.reclaim")):
            pytest.skip("no memory controller here")
        yield path


def reclaim(cgroup: Path, size_bytes: int) -> None:
    """Take memory from a cgroup, as a node does that needs it for others."""
    if (cgroup / "memory.force_empty").exists():
        (cgroup / "memory.force_empty").write_text("0")
    else:
        (cgroup / "memory.reclaim").write_text(str(size_bytes))


def start(capture: Path, program: str, *arguments: Path, fault: str = "", **options: Any) -> subprocess.Popen[bytes]:
    """Start the recording of a program."""
    recording = [sys.executable, "-m", "slmtrace", "record", "-o", str(capture), "--"]
    if fault:
        recording = [sys.executable, "-m", "tools.faults", fault, "--", *recording]
    return subprocess.Popen([*recording, sys.executable, "-c", program, *map(str, arguments)], **options)


def windows(capture: Path, name: str) -> list[dict[str, Any]]:
    report: dict[str, Any] = json.loads((capture / "breakdown.json").read_text())
    return [window for window in report["windows"] if window["name"] == name]


def leading_cause(window: dict[str, Any]) -> str:
    """Return the cause of most of a window, but for what other programs do to a busy machine."""
    causes = {cause["cause"]: int(cause["ns"]) for cause in window["causes"] if cause["cause"] != "run_queue"}
    return max(causes, key=causes.__getitem__)


def first_finding(window: dict[str, Any]) -> str:
    """Return the first finding of a window, but for what other programs do to a busy machine; '': there is none."""
    return next((finding["id"] for finding in window["findings"] if finding["id"] not in BUSY), "")


def compaction_stalls() -> int:
    """Return how often threads had to compact memory themselves since the start of the machine (/proc/vmstat)."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("compact_stall "))


def test_a_load_bound_by_faults_on_mapped_weights(tmp_path: Path) -> None:
    weights, capture = tmp_path / "model.safetensors", tmp_path / "capture"
    weights.write_bytes(bytes(WEIGHTS_BYTES))
    evict_from_page_cache([weights])

    assert start(capture, MAPPED_LOAD, weights).wait(PATIENCE_S) == 0

    (load,) = windows(capture, "load")
    assert (leading_cause(load), first_finding(load)) == ("major_fault", "fault_bound_weights")


def test_a_large_allocation_that_compacts_memory_first(tmp_path: Path) -> None:
    capture = tmp_path / "capture"
    # Or the page cache would be given up first, in pieces that are large.
    Path("/proc/sys/vm/drop_caches").write_text("1")
    n_stalls = compaction_stalls()

    if start(capture, BIG_ALLOCATION, fault="thp_compaction", cwd=ROOT).wait(PATIENCE_S) and not capture.exists():
        pytest.skip("memory cannot be cut into pieces here")
    if compaction_stalls() == n_stalls:
        pytest.skip("the kernel found huge pages without compaction, by its own count")

    (load,) = windows(capture, "load")
    assert first_finding(load) == "thp_compaction"


@pytest.mark.hf
def test_a_compilation_at_first_use_after_the_load(tmp_path: Path) -> None:
    model, capture = tmp_path / "tiny", tmp_path / "capture"
    make_model("tiny", model)
    environ = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}

    assert start(capture, COMPILE_AT_FIRST_USE, model, env=environ).wait(PATIENCE_S) == 0

    paying, later = windows(capture, "ttft")
    assert (leading_cause(paying), first_finding(paying)) == ("torch_compile", "compiled_anew")
    assert any("while the request waited" in finding["evidence"] for finding in paying["findings"])
    assert "compiled_anew" not in [finding["id"] for finding in later["findings"]]


@pytest.mark.hf
@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_a_kernel_that_a_compiler_builds_at_first_use(tmp_path: Path) -> None:
    model, capture = tmp_path / "tiny", tmp_path / "capture"
    make_model("tiny", model)

    assert start(capture, BUILD_AT_FIRST_USE, model, tmp_path / "built.so").wait(PATIENCE_S) == 0

    paying, later = windows(capture, "ttft")
    assert (leading_cause(paying), first_finding(paying)) == ("jit_compile", "compiled_anew")
    assert "compiled_anew" not in [finding["id"] for finding in later["findings"]]


@pytest.mark.hf
def test_a_first_request_after_an_idle_time_in_which_others_needed_memory(tmp_path: Path, cgroup: Path) -> None:
    model, capture, idle = tmp_path / "tiny", tmp_path / "capture", tmp_path / "idle"
    size_bytes = make_model("tiny", model, scale=8)
    evict_from_page_cache(model.glob("*.safetensors"))  # what others brought in is charged to them

    def enter_cgroup() -> None:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))

    recording = start(capture, IDLE, model, idle, preexec_fn=enter_cgroup)
    until_s = time.monotonic() + PATIENCE_S
    while not idle.exists() and recording.poll() is None and time.monotonic() < until_s:
        time.sleep(0.1)
    time.sleep(1.5)
    reclaim(cgroup, size_bytes)
    idle.unlink()
    assert recording.wait(PATIENCE_S) == 0

    *_, before, after, last = windows(capture, "ttft")
    assert first_finding(after) == "dropped_while_idle"
    assert "dropped_while_idle" not in [finding["id"] for finding in before["findings"] + last["findings"]]
