"""The built-in vLLM run, in the target: `python -m slmtrace.engines.vllm_driver PLAN`.

It starts a server as a user would, asks it as a client would, and ends it. Server and client are one process tree, so
that a request can be followed from the client's send to the client's receive.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..instrument.environment import QUIET
from .client import Answer, Server, ask_all, is_healthy

_POLL_S = 0.1
_GRACE_S = 15.0
_LAST_LINES = 5
# How the last line of a traceback begins, whatever a logger puts before it.
_ERROR = re.compile(r"(^|[\s\]])\w+(Error|Exception): ")


def main(plan_path: str) -> int:
    """Serve, ask, and return the exit code."""
    plan: dict[str, Any] = json.loads(Path(plan_path).read_text(encoding="utf-8"))
    with Path(plan["log"]).open("wb") as log:
        # Its own group, so that the server's processes can be ended together, and Ctrl-C comes to it from us alone.
        server = subprocess.Popen(
            plan["command"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not _wait_until_ready(server, int(plan["port"]), float(plan["timeout_s"])):
            _complain(server, plan, "while loading" if server.poll() is not None else "in time to answer")
            return 1
        where = Server(int(plan["port"]), str(plan["model"]), int(plan["n_new_tokens"]))
        answers = ask_all(where, plan["prompts"], int(plan["concurrency"]))
        _write_results(Path(plan["results"]), answers, int(plan["n_new_tokens"]))
        for answer in answers:
            if answer.error or not os.environ.get(QUIET):
                print(_describe(answer), file=sys.stderr, flush=True)
        if server.poll() is not None:
            _complain(server, plan, "while it was answering")
        return 1 if any(answer.error for answer in answers) else 0
    finally:
        _end(server)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    # Its end wakes us, so that the critical path of a load that failed leads into the server.
    end = os.pidfd_open(server.pid)
    try:
        while server.poll() is None and time.monotonic() < deadline:
            if is_healthy(port):
                return True
            select.select([end], [], [], _POLL_S)
        return False
    finally:
        os.close(end)


def _write_results(path: Path, answers: Sequence[Answer], n_new_tokens: int) -> None:
    """Write down how each answer went, as the client saw it; the server's memory is not the client's to tell."""
    lines = [
        {
            "start_s": one.start_ns / 1e9,
            "latency_s": (one.end_ns - one.start_ns) / 1e9,
            "n_new_tokens": n_new_tokens,
            "rss_bytes": 0,
        }
        for one in answers
        if not one.error
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def _describe(answer: Answer) -> str:
    if answer.error:
        return f"request {answer.request_id} failed: {answer.error}"
    first_ms = (answer.first_data_ns - answer.start_ns) / 1e6
    text_ms = (answer.first_text_ns - answer.start_ns) / 1e6 if answer.first_text_ns else 0.0
    late = f", first text after {text_ms:.1f} ms" if answer.first_text_ns > answer.first_data_ns else ""
    return f"request {answer.request_id}: first data after {first_ms:.3f} ms{late}"


def _complain(server: subprocess.Popen[bytes], plan: dict[str, Any], when: str) -> None:
    """Say how the server fared, with the first and the last of its errors, or its last lines."""
    code = server.poll()
    ended = f"ended with exit code {code} {when}" if code is not None else f"was not ready {when}"
    lines = Path(plan["log"]).read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if _ERROR.search(line)]
    print(f"vllm serve {ended}:", file=sys.stderr)
    for line in dict.fromkeys((errors[0], errors[-1]) if errors else lines[-_LAST_LINES:]):
        print(f"    {line}", file=sys.stderr)
    print(f"  try: run it alone, it says more: {shlex.join(plan['command'])}", file=sys.stderr)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and all that it started."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            server.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
