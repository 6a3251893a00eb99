"""What a caller of the service may ask of its collector: it is not trusted, and gets what ptrace(2) would give it.

It sends one JSON object on a line, and with it the open file to write the log to: the collector opens nothing that the
caller names, so it writes nowhere where the caller could not.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

TIMEOUT_S = 5.0
MAX_REQUEST_BYTES = 65536
MAX_RING_BYTES = 64 << 20
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class Refused(Exception):
    """The caller may not have what it asks for; the message says why."""


def receive_request(descriptor: int) -> dict[str, Any]:
    """Read the request that comes over a connected Unix socket; return it as the collector's configuration.

    Raises:
        Refused: it is none, or none that this caller may make.
    """
    connection = socket.socket(fileno=os.dup(descriptor))
    with connection:
        pid, uid, gid = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        request, files = _receive(connection)
    if request.get("check") is True:
        return {"check": True}
    if not _is_in_our_pid_namespace(pid):
        raise Refused("the caller lives in another PID namespace: start its container with hostPID, or --pid=host")
    if request.get("malloc") == "full":
        raise Refused("--malloc full slows every process that uses the allocator: not for a service")
    try:
        return {
            "log": _checked_log(files, uid),
            "uid": uid,
            "gid": gid,
            "is_for_another": True,
            "ring_bytes": min(int(request["ring_bytes"]), MAX_RING_BYTES),
            "threshold_ns": int(request["threshold_ns"]),
            "malloc": "default",
            "http": bool(request["http"]),
            "cuda_libraries": [],
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Refused("this is no request of this version of slmtrace") from error


def belongs_to(pid: int, uid: int) -> bool:
    """Say whether a process is the user's alone: by all its user ids, and dumpable (ptrace(2), proc(5))."""
    try:
        owner = Path(f"/proc/{pid}/maps").stat().st_uid  # root, if the process may not be dumped
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return False
    uids = next((line.split()[1:] for line in lines if line.startswith("Uid:")), [])
    return owner == uid and set(uids) == {str(uid)}


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    connection.settimeout(TIMEOUT_S)
    data, files = b"", []
    try:
        while not data.endswith(b"\n") and len(data) < MAX_REQUEST_BYTES:
            chunk, more, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 1)
            data += chunk
            files += more
            if not chunk:
                break
        request = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise Refused("this is no request of slmtrace") from error
    finally:
        connection.settimeout(None)  # it is our stdin and stdout, too
    if not isinstance(request, dict):
        raise Refused("this is no request of slmtrace")
    return request, files


def _checked_log(files: list[int], uid: int) -> int:
    if len(files) != 1:
        raise Refused("the request brings no file for the log")
    status = os.fstat(files[0])
    is_writable = fcntl.fcntl(files[0], fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    if not (stat.S_ISREG(status.st_mode) and status.st_uid == uid and is_writable and status.st_size == 0):
        raise Refused("the log is not an empty file of the caller's, open for reading and writing")
    return files[0]


def _is_in_our_pid_namespace(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/ns/pid").stat().st_ino == Path("/proc/self/ns/pid").stat().st_ino
    except OSError:  # pid is 0 for a caller outside of ours
        return False
