"""Kill vLLM's engine core between two requests: the windows that had ended must be whole.

Usage: kill.py MODEL [--requests N] [--keep DIR]
Once so many requests have been answered, the process with the most CUDA records gets SIGKILL. Printed is what the
capture still has of each request's window; exits with 1 if one has none, if a tenth of its kernels is missing, or if
less than 97 % of it is explained.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from inspect_capture import totals

from slmtrace.analysis import load
from slmtrace.capture.directory import Capture

WORKLOAD = Path(__file__).with_name("vllm_workload.py")
_MANY = 100_000
_GRACE_S, _END_S = 20, 60
_EXPLAINED, _COMPLETE = 0.97, 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="where the capture stays  [default: nowhere]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = (args.keep or Path(temporary)) / "killed"
        record(args.model, args.requests, path)
        failures = problems(path, args.requests)
    print("; ".join(failures) or "ok")
    sys.exit(bool(failures))


def record(model: str, n_requests: int, path: Path) -> None:
    """Record until so many requests are answered and the engine core is killed."""
    workload = [sys.executable, str(WORKLOAD), model, "--requests", str(_MANY)]
    command = [sys.executable, "-m", "slmtrace", "record", "-o", str(path), "--", *workload]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as recording:
        assert recording.stdout is not None
        for line in recording.stdout:
            if line.startswith(f"request {n_requests - 1}:"):
                pid = engine_core(path)
                os.kill(pid, signal.SIGKILL)
                print(f"killed {pid} after: {line.strip()}", flush=True)
                break
        finish(recording)
    print(f"the recorder's exit code is {recording.returncode}, the target's own")


def finish(recording: subprocess.Popen[str]) -> None:
    """Wait for the recording; end a program that waits for its engine core in vain."""
    for patience_s in (_GRACE_S, _GRACE_S, _END_S):
        try:
            recording.communicate(timeout=patience_s)
            return
        except subprocess.TimeoutExpired:
            print("the program still runs: interrupted", flush=True)
            recording.send_signal(signal.SIGINT)
    recording.kill()


def engine_core(path: Path) -> int:
    """Return the pid in the name of the CUDA log that takes most of the disk."""
    log = max((path / "raw").glob("cuda.*.bin"), key=lambda log: log.stat().st_blocks)
    return int(log.name.split(".")[1])


def problems(path: Path, n_requests: int) -> list[str]:
    """Print what the capture says of the answered requests, and return what is wrong."""
    breakdown = json.loads((path / "breakdown.json").read_text())
    for source in breakdown["sources"]:
        print("source", {key: source[key] for key in ("name", "status", "reason", "records", "lost")})
    windows = {window["index"]: window for window in breakdown["windows"] if window["name"] == "ttft"}
    trace = load(Capture.open(path))
    found, kernels = [], []
    for number in range(n_requests):
        if number not in windows:
            found.append(f"request {number} has no window")
            continue
        window = windows[number]
        explained = 1 - window["phases"]["unattributed"] / window["total_ns"]
        work = totals(trace, window["start_ns"], window["end_ns"])
        kernels.append(work[0][1])
        print(f"request {number}: {window['total_ns'] / 1e6:.2f} ms, {explained:.2%} explained, {kernels[-1]} kernels")
        if explained < _EXPLAINED:
            found.append(f"request {number} is explained by {explained:.2%}")
    if min(kernels, default=0) < _COMPLETE * max(kernels, default=1):
        found.append("kernels are missing")
    return found


if __name__ == "__main__":
    main()
