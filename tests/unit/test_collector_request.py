"""What a service's collector grants: a file that the caller opened itself, and the caller's own processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slmtrace.capture.rawlog import create
from slmtrace.probes.collector.request import MAX_RING_BYTES, Refused, belongs_to, receive_request

REQUEST = {"ring_bytes": 1 << 20, "threshold_ns": 20_000, "malloc": "default", "http": False}


def ask(request: object, *files: int) -> dict[str, Any]:
    caller, collector = socket.socketpair()
    with caller, collector:
        data = request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n"
        socket.send_fds(caller, [data], files)
        caller.shutdown(socket.SHUT_WR)
        return receive_request(collector.fileno())


@pytest.fixture
def log(tmp_path: Path) -> int:
    return create(tmp_path / "ebpf.bin", b"")


def test_the_log_is_the_file_that_came_along(log: int) -> None:
    config = ask(REQUEST, log)

    assert os.fstat(config["log"]) == os.fstat(log)
    assert (config["uid"], config["gid"], config["is_for_another"]) == (os.getuid(), os.getgid(), True)


def test_nothing_else_of_a_request_gets_through(log: int) -> None:
    evil = {"uid": 1, "is_for_another": False, "source_dir": "/tmp", "avoid": ["x"], "cuda_libraries": ["/lib/libc.so"]}

    config = ask({**REQUEST, **evil, "ring_bytes": 1 << 40}, log)

    assert config["uid"] == os.getuid() and config["is_for_another"] is True
    assert "source_dir" not in config and "avoid" not in config
    assert config["cuda_libraries"] == []
    assert config["ring_bytes"] == MAX_RING_BYTES


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"no json\n",
        b"[1]\n",
        b'{"check"',
        b"[" * 70_000 + b"\n",
        {},
        {**REQUEST, "ring_bytes": "many"},
        {**REQUEST, "ring_bytes": 1e999},
        {**REQUEST, "malloc": "full"},
    ],
)
def test_what_is_no_request_is_refused(request_: object, log: int) -> None:
    with pytest.raises(Refused):
        ask(request_ or b"\n", log)


def test_a_caller_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmtrace.probes.collector.request.TIMEOUT_S", 0.05)
    caller, collector = socket.socketpair()

    with caller, collector, pytest.raises(Refused):
        receive_request(collector.fileno())


def test_a_file_that_the_caller_could_not_write_itself_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("something")
    (tmp_path / "empty").touch()
    pipe, _ = os.pipe()
    refused = [
        (),
        (pipe,),
        (os.open(tmp_path / "empty", os.O_RDONLY),),
        (os.open(tmp_path / "full", os.O_RDWR),),
        (os.open(tmp_path, os.O_RDONLY),),
    ]

    for files in refused:
        with pytest.raises(Refused, match="log"):
            ask(REQUEST, *files)


@pytest.mark.root
def test_a_file_of_somebody_else_is_no_log(tmp_path: Path) -> None:
    descriptor = create(tmp_path / "ebpf.bin", b"")
    os.chown(descriptor, 12345, 12345)

    with pytest.raises(Refused, match="log"):
        ask(REQUEST, descriptor)


def test_a_process_belongs_to_its_user_alone() -> None:
    assert belongs_to(os.getpid(), os.getuid())
    assert not belongs_to(os.getpid(), os.getuid() + 1)
    assert not belongs_to(2**22 + 1, os.getuid())


@pytest.mark.root
def test_a_process_that_may_not_be_dumped_belongs_to_nobody_else() -> None:
    forbid = "import ctypes, time; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); print(flush=True); time.sleep(60)"
    command = ["setpriv", "--reuid", "12345", "--clear-groups", "/usr/bin/python3", "-I", "-c", forbid]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        is_theirs = belongs_to(process.pid, 12345)

        process.send_signal(signal.SIGKILL)
    assert not is_theirs
