"""The streaming client, against a server made by hand."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from slmtrace.engines.client import Server, ask_all, is_healthy

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(text: str) -> bytes:
    data = b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(data), data)


LAST = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


@contextmanager
def serving(*answers: list[bytes]) -> Iterator[tuple[int, list[bytes]]]:
    """Serve each request of one connection with the pieces of an answer; yield the port and the requests."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for pieces in answers:
                    requests.append(read_request(connection))
                    for piece in pieces:
                        connection.sendall(piece)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1], requests
        thread.join()


def read_request(connection: socket.socket) -> bytes:
    received = b""
    while True:
        head, separator, body = received.partition(b"\r\n\r\n")
        if separator and len(body) >= int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0):
            return received
        received += connection.recv(1 << 16)


def test_the_first_data_and_the_first_text_are_told_apart() -> None:
    with serving([HEAD, event(""), event("one"), LAST]) as (port, requests):
        (answer,) = ask_all(Server(port, "m", 4), ["prompt"], concurrency=1)

    assert answer.error == ""
    assert 0 < answer.start_ns < answer.first_data_ns <= answer.first_text_ns <= answer.end_ns
    assert b"X-Request-Id: vllm-0\r\n" in requests[0]


def test_headers_alone_are_no_data() -> None:
    with serving([HEAD, b"0\r\n\r\n"]) as (port, _):
        (answer,) = ask_all(Server(port, "m", 4), ["prompt"], concurrency=1)

    assert (answer.first_data_ns, answer.error) == (0, "the answer held no data")


def test_one_connection_serves_many_requests() -> None:
    with serving([HEAD, event("a"), LAST], [HEAD, event("b"), LAST]) as (port, requests):
        answers = ask_all(Server(port, "m", 4), ["one", "two"], concurrency=1)

    assert [answer.error for answer in answers] == ["", ""]
    assert json.loads(requests[1].partition(b"\r\n\r\n")[2])["prompt"] == "two"


def test_a_refusal_is_told_with_its_reason() -> None:
    refusal = b"HTTP/1.1 404 Not Found\r\ncontent-length: 8\r\n\r\nno model"
    with serving([refusal]) as (port, _):
        (answer,) = ask_all(Server(port, "m", 4), ["prompt"], concurrency=1)

    assert answer.error == "status 404: no model"
    assert answer.first_data_ns == 0


def test_a_server_that_hangs_up_is_an_error() -> None:
    with serving([HEAD]) as (port, _):
        (answer,) = ask_all(Server(port, "m", 4), ["prompt"], concurrency=1)

    assert answer.error == "the server closed the connection"


def test_nobody_there_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    assert not is_healthy(port)
