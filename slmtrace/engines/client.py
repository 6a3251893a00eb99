"""A client that streams completions over HTTP and stamps, for each request, when it was sent and when text came.

Standard library only, on a plain socket: nothing stands between the clock and the bytes. Where the instrument is
loaded, the stamps become the marks that windows are made of.
"""

from __future__ import annotations

import functools
import importlib
import json
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic_ns
from typing import Any

_TIMEOUT_S = 600.0
_DATA = b"data: "


@dataclass(frozen=True, slots=True)
class Server:
    """Where to ask, and for which model."""

    port: int
    model: str
    n_new_tokens: int


@dataclass(slots=True)
class Answer:
    """One request's stamps, CLOCK_MONOTONIC ns; 0: it never came to that."""

    request_id: str
    start_ns: int = 0  # before the first byte was sent
    first_data_ns: int = 0  # the first bytes that hold generated data; the headers come much earlier
    first_text_ns: int = 0  # the first text that is not empty
    end_ns: int = 0
    error: str = ""


def is_healthy(port: int) -> bool:
    """Say whether a server answers at /health."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def ask_all(server: Server, prompts: Sequence[str], concurrency: int, prefix: str = "vllm") -> list[Answer]:
    """Ask for every prompt, at most `concurrency` at a time; each asker keeps one connection."""
    _instrument()
    waiting: SimpleQueue[int] = SimpleQueue()
    for number in range(len(prompts)):
        waiting.put(number)
    answers = [Answer(f"{prefix}-{number}") for number in range(len(prompts))]

    def work() -> None:
        with _Connection(server) as connection:
            while True:
                try:
                    number = waiting.get_nowait()
                except Empty:
                    return
                connection.ask(prompts[number], answers[number])

    if concurrency == 1:
        work()
        return answers
    threads = [threading.Thread(target=work, name=f"client {n}") for n in range(min(concurrency, len(prompts)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


class _Connection:
    """One keep-alive connection, opened anew after a failure."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._socket: socket.socket | None = None

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def ask(self, prompt: str, answer: Answer) -> None:
        """Send one request and follow its answer to the end."""
        message = _encode(self._server, prompt, answer.request_id)
        try:
            connection = self._connect()
            answer.start_ns = monotonic_ns()
            connection.sendall(message)
            sent_ns = monotonic_ns()
            for data, at_ns in self._receive(connection):
                _take(data, at_ns, answer)
        except OSError as error:
            answer.error = answer.error or str(error)
            self._close()
        answer.end_ns = monotonic_ns()
        if not answer.first_data_ns and not answer.error:
            answer.error = "the answer held no data"
        if answer.start_ns and not answer.error:
            _mark(answer, sent_ns)

    def _connect(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._server.port), timeout=_TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._socket

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _receive(self, connection: socket.socket) -> Iterator[tuple[bytes, int]]:
        """Yield what has come so far, each time that something came, with the time."""
        received = bytearray()
        while not _is_complete(received):
            piece = connection.recv(1 << 16)
            at_ns = monotonic_ns()
            if not piece:
                raise ConnectionError("the server closed the connection")
            received += piece
            yield bytes(received), at_ns


def _encode(server: Server, prompt: str, request_id: str) -> bytes:
    body = json.dumps(
        {
            "model": server.model,
            "prompt": prompt,
            "max_tokens": server.n_new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
    ).encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _is_complete(received: bytearray) -> bool:
    """Say whether the whole answer is there: the last chunk of a chunked one, or as much as was announced."""
    head, separator, body = bytes(received).partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return body.endswith(b"0\r\n\r\n")


def _take(received: bytes, at_ns: int, answer: Answer) -> None:
    """Note the stamps that the bytes received so far allow."""
    head, _, body = received.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"]:
        answer.error = f"status {status[0].decode('latin-1') if status else '?'}: {body[:300].decode(errors='replace')}"
    elif not answer.first_data_ns and _DATA in body:
        answer.first_data_ns = at_ns
    if answer.first_data_ns and not answer.first_text_ns and any(map(_text_of, _events(body))):
        answer.first_text_ns = at_ns


def _events(body: bytes) -> list[bytes]:
    """Return the complete server-sent events."""
    lines = body.split(b"\n")[:-1]
    return [line[len(_DATA) :].strip() for line in lines if line.startswith(_DATA)]


def _text_of(event: bytes) -> str:
    try:
        choices: list[dict[str, Any]] = json.loads(event).get("choices") or [{}]
    except ValueError:  # [DONE]
        return ""
    return str(choices[0].get("text") or "")


@functools.cache
def _instrument() -> tuple[Any, Any] | None:
    """Return what writes into the log of this process, if it has one; imported before any request is timed."""
    if "_slmtrace" not in sys.modules:
        return None
    marks, wrap = (importlib.import_module(f"_slmtrace.instrument.{name}") for name in ("marks", "wrap"))
    return marks, wrap


def _mark(answer: Answer, sent_ns: int) -> None:
    """Write the stamps into the log of this process, if it has one."""
    instrument = _instrument()
    if instrument is None:
        return
    marks, wrap = instrument
    marks.mark("request_start", answer.request_id, answer.start_ns)
    wrap.write_range("receive|send request", answer.start_ns, sent_ns, request=answer.request_id)
    marks.mark("first_token", answer.request_id, answer.first_data_ns)
    if answer.first_text_ns:
        marks.mark("first_text", answer.request_id, answer.first_text_ns)
    marks.mark("request_end", answer.request_id, answer.end_ns)
