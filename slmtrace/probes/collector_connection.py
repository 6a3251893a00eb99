"""The collector of a service (collector_service.py), reached over its Unix socket."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from typing import Any

from ..errors import SlmtraceError
from .collector_client import CollectorClient

REMEDY = "as root: slmtrace collector --socket PATH --group GROUP, where you are of that group (ebpf/README.md)"


class CollectorConnection(CollectorClient):
    """A collector of our own behind a socket; it ends with the connection."""

    def __init__(self, path: str, config: dict[str, Any], log: int | None = None) -> None:
        """Connect and send the configuration, with the descriptor of the log to write.

        Raises:
            SlmtraceError: nobody answers there, or we may not ask.
        """
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(path)
            socket.send_fds(self._socket, [json.dumps(config).encode() + b"\n"], [] if log is None else [log])
        except OSError as error:
            self._socket.close()
            raise SlmtraceError(f"no collector answers at {path}: {error.strerror or error}", hint=REMEDY) from error

    @property
    def is_alive(self) -> bool:
        """Say whether the connection stands."""
        if self._socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return not poll.poll(0)

    def describe_exit(self) -> str:
        """Say whether it has ended; how, the service alone knows."""
        return "still running" if self.is_alive else "its connection ended"

    def close(self, timeout_s: float) -> None:
        """Say no more, wait for its end, and go."""
        self._hang_up()
        while self.read(timeout_s) is not None:
            pass
        self._socket.close()

    def _descriptor(self) -> int:
        return self._socket.fileno()

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
