"""Servers of vLLM as the benchmarks use them: started, waited for, suspended, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import psutil

from slmtrace.engines.client import is_healthy

READY_TIMEOUT_S = 900.0
END_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is up, and what it took to become ready."""

    pid: int
    load_ns: float


@contextlib.contextmanager
def serve(command: list[str], port: int, environ: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Start a server, yield it when it is ready, and end it.

    Raises:
        SystemExit: it did not become ready.
    """
    start_ns = time.monotonic_ns()
    # Its own group, so that Ctrl-C comes to it from us alone.
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ, start_new_session=True
    )
    try:
        while not is_healthy(port):
            if server.poll() is not None or time.monotonic_ns() - start_ns > READY_TIMEOUT_S * 1e9:
                raise SystemExit(f"{' '.join(command)} did not become ready")
            time.sleep(0.02)
        yield Running(server.pid, time.monotonic_ns() - start_ns)
    finally:
        server.terminate()
        try:
            server.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)


@contextlib.contextmanager
def suspended(server: Running) -> Iterator[None]:
    """Keep a server, its recorder and all that they started off the CPUs."""
    root = psutil.Process(server.pid)
    tree = [root, *root.children(recursive=True)]
    try:
        for process in tree:
            process.suspend()
        yield
    finally:
        for process in tree:
            process.resume()


def serve_command(model: str, port: int) -> list[str]:
    """Return the command that serves a model under the name model."""
    return ["vllm", "serve", model, "--host", "127.0.0.1", "--port", str(port), "--served-model-name", "model"]


def free_ports() -> list[int]:
    """Return two ports that are free now."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return [one.getsockname()[1], other.getsockname()[1]]
