"""Where the interpreter's lock of a process is."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

from slmtrace.probes.collector.python import Runtime, RuntimeFinder


def find(*pids: int) -> dict[int, Runtime]:
    found: dict[int, Runtime] = {}
    finder = RuntimeFinder(found.__setitem__)
    for pid in pids:
        finder.add(pid)
    finder.work()
    return found


def test_the_runtime_state_of_this_process_is_where_its_linker_says() -> None:
    address = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, "_PyRuntime"))

    runtime = find(os.getpid())[os.getpid()]

    assert runtime.address == address
    assert 1 << 9 < runtime.size_bytes < 1 << 22  # 672 bytes in Python 3.10


def test_a_program_that_is_no_python_and_a_process_that_is_gone_have_none() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        found = find(sleeper.pid, ended.pid)
        sleeper.kill()

    assert found == {}


def test_a_process_is_told_of_once() -> None:
    told: list[int] = []
    finder = RuntimeFinder(lambda pid, runtime: told.append(pid))
    finder.add(os.getpid())

    finder.work()
    finder.work()

    assert told == [os.getpid()]
