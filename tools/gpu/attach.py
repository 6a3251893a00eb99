"""Attach to a server that uses a GPU: are its requests explained, does it go on, and what does that cost it?

Usage: attach.py MODEL [--requests N] [--rounds N]
The first request is the first use of the GPU's kernels, and recorded. Then rounds alternate: so many requests attached,
and as many alone; printed are both medians and their ratio. Exits with 1 if a request has no window, if the driver's
calls are missing, or if an answer changes.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORKLOAD = Path(__file__).with_name("serve_workload.py")
_START_S = 120
_TIMEOUT_S = 60
# The driver's calls that a first request cannot do without.
_EXPECTED = ("cuLibraryLoadData", "cuStreamSynchronize")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    attached_ms: list[float] = []
    alone_ms: list[float] = []
    with tempfile.TemporaryDirectory() as temporary, served(args.model) as (pid, port):
        first = Path(temporary, "first")
        with attached(pid, first):
            answers = {ask(port)[0]}
            for _ in range(args.requests):
                answers.add(ask(port)[0])
        failures = check(first, 1 + args.requests)
        for number in range(args.rounds):
            with attached(pid, Path(temporary, f"round-{number}")):
                samples = [ask(port) for _ in range(args.requests)]
            others = [ask(port) for _ in range(args.requests)]
            answers |= {answer for answer, _ in (*samples, *others)}
            attached_ms.append(statistics.median(ms for _, ms in samples))
            alone_ms.append(statistics.median(ms for _, ms in others))
            print(f"round {number + 1}: attached {attached_ms[-1]:.2f} ms, alone {alone_ms[-1]:.2f} ms", flush=True)
    ratios = [attached / alone for attached, alone in zip(attached_ms, alone_ms, strict=True)]
    print(f"ratio {statistics.median(ratios):.3f}   ({' '.join(f'{ratio:.3f}' for ratio in ratios)})")
    if len(answers) != 1:
        failures.append(f"the answers differ: {sorted(answers)}")
    print("; ".join(failures) or "ok")
    sys.exit(bool(failures))


@contextlib.contextmanager
def served(model: str) -> Iterator[tuple[int, int]]:
    """Run the server; yield its pid and its port once the model is loaded."""
    with subprocess.Popen([sys.executable, str(WORKLOAD), model], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.pid, int(server.stdout.readline())
        finally:
            server.kill()


@contextlib.contextmanager
def attached(pid: int, path: Path) -> Iterator[None]:
    """Record the process meanwhile."""
    command = [sys.executable, "-m", "slmtrace", "attach", str(pid), "-o", str(path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as recording:
        until_s = time.monotonic() + _START_S
        while not (path / "manifest.json").exists():
            if recording.poll() is not None or time.monotonic() > until_s:
                recording.kill()
                sys.exit(f"it does not attach: {recording.communicate()[1]}")
            time.sleep(0.05)
        try:
            yield
        finally:
            recording.send_signal(signal.SIGINT)
            errors = recording.communicate(timeout=_START_S)[1]
    if errors:
        print(errors.strip(), flush=True)


def ask(port: int) -> tuple[str, float]:
    """Return a request's answer, and how many milliseconds it took."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    begin_s = time.monotonic()
    client.request("POST", "/", body=b"x")
    answer = client.getresponse().read().decode()
    client.close()
    return answer, (time.monotonic() - begin_s) * 1e3


def check(path: Path, n_requests: int) -> list[str]:
    """Print how the first two requests are explained, and return what is missing."""
    breakdown = json.loads((path / "breakdown.json").read_text())
    for index in (0, 1):
        command = [sys.executable, "-m", "slmtrace", "report", str(path), "--window", f"ttft:{index}"]
        subprocess.run(command, check=False, timeout=_TIMEOUT_S)
    for source in breakdown["sources"]:
        print("source", {key: source[key] for key in ("name", "status", "reason")})
    windows = breakdown["windows"]
    missing = [] if len(windows) == n_requests else [f"{len(windows)} windows for {n_requests} requests"]
    functions = functions_of(windows[0]) if windows else set()
    print("functions of the first request:", ", ".join(sorted(functions)))
    return missing + [f"no call of {name}" for name in _EXPECTED if name not in functions]


def functions_of(window: dict[str, Any]) -> set[str]:
    return {row["name"] for cause in window["causes"] for row in cause["detail"].get("functions", [])}


if __name__ == "__main__":
    main()
