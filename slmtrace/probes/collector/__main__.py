"""The collector's main loop. Commands on stdin, one a line: enroll PID, allocator PATH, stop. The end of stdin is stop.

A service's collector has a connected socket for its stdin and stdout, and what to record comes first on it.

Each command is answered by one JSON object a line: {"event": "ready" | "ok" | "error" | "stopped", ...}.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any

from .diagnosis import check, find_problem
from .request import Refused, receive_request
from .session import Session
from .threads import NoSuchProcess


def main() -> int:
    """Run; the configuration is one JSON object, the first argument."""
    config = json.loads(sys.argv[1])
    if config.get("is_service"):
        try:
            config.update(receive_request(0))
        except Refused as refusal:
            _say("error", reason=str(refusal), remedy="")
            return 1
    if config.get("check"):
        _say("checked", **check())
        return 0
    # Whoever interrupts the recording does not mean us: the recorder tells us to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _close_stdin)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    problem = find_problem()
    if problem:
        _say("error", reason=problem.reason, remedy=problem.remedy)
        return 1
    try:
        session = Session(config)
    except (OSError, RuntimeError, ValueError) as error:
        _say("error", reason=str(error), remedy="")
        return 1
    _say("ready", groups=session.statuses(), capabilities=session.capabilities, is_kept=session.programs.is_kept)
    _serve(session)
    _say("stopped", **session.finish())
    # The log is complete, so nobody needs to wait for this half second.
    session.programs.detach()
    return 0


def _serve(session: Session) -> None:
    commands = _Commands()
    wait_s = 0.0
    while True:
        for line in commands.read(wait_s):
            if line == "stop":
                return
            _obey(session, line)
        if commands.is_over:
            return
        wait_s = session.work()


def _obey(session: Session, line: str) -> None:
    command, _, argument = line.partition(" ")
    try:
        if command == "enroll":
            _say("ok", threads=session.enroll(int(argument)))
        elif command == "allocator":
            _say("ok", reason=session.probe_allocator(argument))
        else:
            _say("error", reason=f"unknown command {command!r}")
    except (NoSuchProcess, ValueError, OSError) as error:
        _say("error", reason=str(error))


class _Commands:
    """Lines from stdin as they come, without blocking on half of one."""

    def __init__(self) -> None:
        self._rest = b""
        self.is_over = False

    def read(self, wait_s: float) -> Iterator[str]:
        """Wait for input at most so long, and return the lines that are complete."""
        try:
            ready, _, _ = select.select([0], [], [], wait_s)
            data = os.read(0, 4096) if ready else None
        except (OSError, ValueError):  # closed by SIGTERM
            data = b""
        if data is None:
            return iter(())
        self.is_over = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        return iter([os.fsdecode(line).strip() for line in lines if line.strip()])


def _close_stdin(number: int, frame: Any) -> None:
    os.close(0)


def _say(event: str, **facts: Any) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more: the log is what counts
        os.write(1, json.dumps({"event": event, **facts}).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
