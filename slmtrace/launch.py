"""Start the target stopped on a gate, so that every probe is ready before its first instruction.

The child is forked early, waits on a pipe, and is told what to execute when the gate opens. It stays in our process
group and keeps our terminal and our standard streams: to it, we are not there.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import LaunchError

# Python ignores these for itself; a program expects them at their default (subprocess does the same).
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_HANDLED_BY_PYTHON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_EXIT_NEVER_RAN = 125


@dataclass(frozen=True, slots=True)
class Exited:
    """How a child ended: its exit code (128 + n when signal n killed it) and what it used."""

    exit_code: int
    signal: int  # 0: it exited by itself
    usage: dict[str, float]


def resolve_program(program: str, environ: Mapping[str, str]) -> str:
    """Return the path of the program that a shell would run.

    Raises:
        LaunchError: there is none.
    """
    if "/" in program:
        if Path(program).is_dir():
            raise LaunchError(f"{program} is a directory", hint="name a program after --")
        found = program if Path(program).exists() else None  # whether it may run, the kernel will say
    else:
        found = shutil.which(program, path=environ.get("PATH", os.defpath))
    if found is not None:
        return found
    raise LaunchError(f"{program}: command not found", hint="check the spelling after --, and PATH")


class Gate:
    """A child that waits to become the target."""

    def __init__(self) -> None:
        wait_fd, self._open_fd = os.pipe()
        self._error_fd, report_fd = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_child(wait_fd, report_fd, (self._open_fd, self._error_fd))
        os.close(wait_fd)
        os.close(report_fd)

    def open(self, program: str, arguments: Sequence[str], environ: Mapping[str, str]) -> int:
        """Let the child execute `program`, and return the time just before (CLOCK_MONOTONIC ns).

        Raises:
            LaunchError: the kernel refused to execute it.
        """
        # Surrogates survive as JSON escapes. The child acts on the end of the pipe: the order goes ahead of the clock.
        _write_all(self._open_fd, json.dumps([program, list(arguments), dict(environ)]).encode())
        exec_ns = time.monotonic_ns()
        os.close(self._open_fd)
        self._open_fd = -1
        with os.fdopen(self._error_fd, "rb") as pipe:
            self._error_fd = -1
            failure = pipe.read()
        if failure:
            os.waitpid(self.pid, 0)
            raise _launch_error(arguments[0], int(failure))
        return exec_ns

    def abandon(self) -> None:
        """Let the child end without running anything; does nothing once the gate was opened."""
        if self._open_fd < 0:
            return
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._open_fd)
        os.close(self._error_fd)
        self._open_fd = -1


def wait_for_exit(pid: int, timeout_s: float) -> bool:
    """Wait until the child is a zombie, and leave it one, so that /proc still has its accounts."""
    deadline = time.monotonic() + timeout_s
    if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
        return True
    _sleep_until_exit(pid, deadline)
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def reap(pid: int) -> Exited:
    """Take the exit status and the resource usage of a child that has ended."""
    _, status, usage = os.wait4(pid, 0)
    by_signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = 128 + by_signal if by_signal else os.waitstatus_to_exitcode(status)
    return Exited(code, by_signal, {name: getattr(usage, name) for name in dir(usage) if name.startswith("ru_")})


def _sleep_until_exit(pid: int, deadline: float) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # before Linux 5.3, or no descriptor left
        time.sleep(max(0.0, deadline - time.monotonic()))
        return
    try:
        exit_poll = select.poll()
        exit_poll.register(descriptor, select.POLLIN)
        exit_poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        os.close(descriptor)


def _be_the_child(wait_fd: int, report_fd: int, parents: tuple[int, ...]) -> None:
    """Wait for the order and execute it; never returns. An end of file means that the recorder is gone."""
    code = _EXIT_NEVER_RAN
    try:
        for descriptor in parents:
            os.close(descriptor)
        for number in _HANDLED_BY_PYTHON:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        with os.fdopen(wait_fd, "rb") as pipe:
            order = pipe.read()
        if order:
            program, arguments, environ = json.loads(order)
            for number in _IGNORED_BY_PYTHON:
                signal.signal(number, signal.SIG_DFL)
            os.execve(program, arguments, environ)
    except OSError as error:
        os.write(report_fd, str(error.errno or errno.EIO).encode())
    finally:
        os._exit(code)


def _launch_error(program: str, number: int) -> LaunchError:
    if number == errno.ENOEXEC:
        return LaunchError(f"{program} is not executable: exec format error", hint="run it by its interpreter")
    if number == errno.EACCES:
        return LaunchError(f"{program}: permission denied", hint=f"chmod +x {program}, or run it by its interpreter")
    if number == errno.E2BIG:
        return LaunchError(f"{program}: the argument list is too long", hint="pass fewer arguments or variables")
    return LaunchError(f"{program} could not be started: {os.strerror(number)}", hint="run it without slmtrace first")


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    with contextlib.suppress(BrokenPipeError):  # the child was killed at the gate; reaping it tells
        while view:
            view = view[os.write(descriptor, view) :]
