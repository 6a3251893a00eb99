"""The collector as a service: for each connection to a Unix socket a collector of its own, which ends with it.

Whoever may open the socket may record, but only what is theirs: collector/request.py has the rules. This process reads
nothing of what callers send.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from ..errors import SlmtraceError, UsageError
from .base import ebpf_source_dir
from .collector_process import collector_command

MAX_COLLECTORS = 8
_EXIT_TIMEOUT_S = 10.0
_BUSY = (
    b'{"event": "error", "reason": "the service has as many recordings as it allows", "remedy": "try again later"}\n'
)


def serve(path: Path, interpreter: str, gid: int) -> None:
    """Serve until SIGTERM or SIGINT; the group may connect. Recordings that still run then are finished in order.

    Raises:
        SlmtraceError: the socket cannot be made.
    """
    collectors: list[subprocess.Popen[bytes]] = []
    command = collector_command((interpreter,), {"is_service": True, "source_dir": str(ebpf_source_dir())})
    signal.signal(signal.SIGTERM, _interrupt)
    with _listen(path, gid) as listener:
        try:
            while True:
                connection, _ = listener.accept()
                with connection:
                    collectors = [collector for collector in collectors if collector.poll() is None]
                    if len(collectors) < MAX_COLLECTORS:
                        collectors.append(_start(command, connection))
                    else:
                        connection.setblocking(False)
                        connection.send(_BUSY)
        except KeyboardInterrupt:
            pass
        finally:
            _finish(collectors)


def _start(command: list[str], connection: socket.socket) -> subprocess.Popen[bytes]:
    # A session of its own: a Ctrl-C at the service's terminal is told to it in order.
    channel = connection.fileno()
    return subprocess.Popen(command, stdin=channel, stdout=channel, cwd="/", start_new_session=True)


def _finish(collectors: list[subprocess.Popen[bytes]]) -> None:
    for collector in collectors:
        collector.terminate()
    for collector in collectors:
        try:
            collector.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            collector.kill()


@contextlib.contextmanager
def _listen(path: Path, gid: int) -> Iterator[socket.socket]:
    """Make the socket, for its owner and the group alone, in place of one that nobody answers at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        _remove_stale(path)
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as error:
            raise SlmtraceError(f"the socket {path} cannot be made: {error.strerror or error}") from error
        finally:
            os.umask(mask)
        try:
            os.chown(path, -1, gid)
            path.chmod(0o660)
            listener.listen()
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
            return
        except OSError:
            return  # to bind will say why
    raise UsageError(f"a service answers at {path} already")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
