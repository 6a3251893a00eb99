"""`slmtrace attach` to a small HTTP server that runs already: its windows, and that it does not notice."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slmtrace.output.json_ import check_conservation

pytestmark = [pytest.mark.root, pytest.mark.bpf]

# Heads alone and heads with a body, buffers and vectors, refusals, and a client of its own: what servers do.
SERVER = """
import asyncio, http.client, os, socket, threading, time

called = threading.Event()  # its first call maps what Python loads for a connection

async def respond(reader, writer):
    connection = writer.get_extra_info("socket")
    while True:
        try:
            head = (await reader.readuntil(b"\\r\\n\\r\\n")).decode()
        except asyncio.IncompleteReadError:
            return writer.close()
        method, path, _ = head.split("\\r\\n")[0].split()
        fields = dict(line.lower().split(": ") for line in head.split("\\r\\n")[1:] if line)
        length = int(fields.get("content-length", 0))
        await reader.readexactly(length)
        stamps = [time.monotonic_ns()]
        time.sleep(0.02)
        status = "404 Not Found" if path == "/missing" else "200 OK"
        start = f"HTTP/1.1 {status}\\r\\nContent-Length: 10\\r\\n\\r\\n".encode()
        rest = b""
        if path == "/joined":
            write = lambda: writer.write(start + b"0123456789")
        elif path == "/vector":
            os.writev(connection.fileno(), [start[:20], start[20:]])
            time.sleep(0.01)
            write = lambda: os.writev(connection.fileno(), [b"01234", b"56789"])
        else:
            writer.write(start)
            await asyncio.sleep(0.01)
            write = lambda: writer.write(b"01234")
            rest = b"56789"
        stamps.append(time.monotonic_ns())
        write()
        stamps.append(time.monotonic_ns())
        if method == "POST":
            print(path, *stamps, flush=True)
        await asyncio.sleep(0.01)
        writer.write(rest)
        await writer.drain()

def call_itself(port):
    while True:
        client = http.client.HTTPConnection("127.0.0.1", port)
        client.request("GET", "/health")
        client.getresponse().read()
        client.close()
        called.set()
        time.sleep(0.05)

async def main():
    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    threading.Thread(target=call_itself, args=(port,), daemon=True).start()
    await asyncio.to_thread(called.wait)
    print(port, flush=True)
    await server.serve_forever()

asyncio.run(main())
"""
PATHS = ("/split", "/joined", "/missing", "/vector", "/split", "/split")


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request: when its client sent it, when its server had read it, and between what it wrote the body's start."""

    path: str
    sent_ns: int
    read_ns: int
    before_body_ns: int
    after_body_ns: int


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.kill()


def attach(pid: int, output: Path, *options: str) -> subprocess.Popen[str]:
    """Attach, and wait until the recording has begun."""
    command = [sys.executable, "-m", "slmtrace", "attach", str(pid), "-o", str(output), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until_s = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until_s:
        if (output / "manifest.json").exists():
            return process
        time.sleep(0.02)
    raise AssertionError(process.communicate(timeout=10))


def post(client: http.client.HTTPConnection, path: str) -> int:
    """Send a request, take the answer, and return when it was sent."""
    sent_ns = time.monotonic_ns()
    client.request("POST", path, body=b"x" * 40)
    client.getresponse().read()
    return sent_ns


def exchange(server: subprocess.Popen[str], client: http.client.HTTPConnection, path: str) -> Exchange:
    """Send a request, and return it as both sides saw it."""
    sent_ns = post(client, path)
    assert server.stdout is not None
    told, *stamps = server.stdout.readline().split()
    assert told == path
    return Exchange(path, sent_ns, *map(int, stamps))


def describe(pid: int) -> tuple[str, list[str], list[str]]:
    """Return what a process has loaded and open, and who traces it."""
    process = Path(f"/proc/{pid}")
    mapped = {line.split()[-1] for line in (process / "maps").read_text().splitlines() if ".so" in line}
    tracer = next(line for line in (process / "status").read_text().splitlines() if line.startswith("TracerPid"))
    return tracer, sorted(mapped), sorted((process / "environ").read_text().split("\0"))


def read_breakdown(output: Path) -> dict[str, Any]:
    breakdown: dict[str, Any] = json.loads((output / "breakdown.json").read_text())
    return breakdown


def test_each_successful_post_is_a_window_from_its_first_read_to_the_write_of_its_body(
    server: tuple[subprocess.Popen[str], int], tmp_path: Path
) -> None:
    process, port = server
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    exchange(process, client, "/split")  # the connection is older than the recording

    recording = attach(process.pid, tmp_path / "capture")
    exchanges = [exchange(process, client, path) for path in PATHS]
    time.sleep(0.2)
    recording.send_signal(signal.SIGINT)
    text, errors = recording.communicate(timeout=60)

    assert recording.returncode == 0, errors
    breakdown = read_breakdown(tmp_path / "capture")
    served = [one for one in exchanges if one.path != "/missing"]
    windows = breakdown["windows"]
    assert [window["name"] for window in windows] == ["ttft"] * len(served)
    for window, one in zip(windows, served, strict=True):
        assert one.sent_ns <= window["start_ns"] <= one.read_ns
        assert one.before_body_ns <= window["end_ns"] <= one.after_body_ns
        assert window["phases"]["unattributed"] < window["total_ns"]
    assert check_conservation(breakdown) == []
    assert [one["percent"] for one in breakdown["percentiles"]] == [50, 95, 99]
    assert "ttft p99" in text
    assert {"name": "ranges", "reason": "attached to a running process: no ranges"}.items() <= next(
        source for source in breakdown["sources"] if source["name"] == "ranges"
    ).items()
    assert {line["source"]: line["lost"] for line in breakdown["ledger"]}["ebpf"] == {}


def test_the_server_goes_on_when_the_time_is_over(server: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    process, port = server
    before = describe(process.pid)

    recording = attach(process.pid, tmp_path / "capture", "--duration", "0.3")
    text, errors = recording.communicate(timeout=60)

    assert recording.returncode == 0, errors
    assert "No window was recorded: no plain HTTP/1 POST was answered with success" in text
    assert process.poll() is None
    assert describe(process.pid) == before
    post(http.client.HTTPConnection("127.0.0.1", port), "/split")


def test_the_end_of_the_process_ends_the_recording(server: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    process, _ = server

    recording = attach(process.pid, tmp_path / "capture", "--probes", "ebpf")
    process.kill()
    _, errors = recording.communicate(timeout=60)

    assert recording.returncode == 0, errors
    assert json.loads((tmp_path / "capture" / "manifest.json").read_text())["target"]["ended_by"] == "target"
