"""Compiled programs kept between runs, in a directory that nobody else can write.

The collector is privileged and loads what it finds there into the kernel, so a file or directory that another user owns
or may write is not read, and nothing is kept then. A damaged file is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from .bytecode import Bytecode, decode_bytecode

FORMAT = "1"  # of what is kept
MAX_KEPT = 16
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_DIGEST_BYTES = 64  # as hexadecimal text


def find(key: str) -> Bytecode | None:
    """Return what was kept under a key, or None."""
    try:
        with _open_directory() as directory:
            descriptor = os.open(key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                content = file.read() if stat.S_ISREG(status.st_mode) and _is_ours_alone(status) else b""
    except (OSError, RuntimeError):
        return None
    digest, text = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return decode_bytecode(text) if digest == _digest(text) else None


def keep(key: str, bytecode: Bytecode) -> None:
    """Keep it for later runs, if there is a place for it; the oldest go."""
    text = bytecode.encode()
    unfinished = f".{key}.{os.getpid()}"
    with contextlib.suppress(OSError, RuntimeError), _open_directory() as directory:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(unfinished, flags, 0o600, dir_fd=directory), "wb") as file:
                file.write(_digest(text) + text)
            # A rename is atomic: who reads meanwhile finds a whole file or none.
            os.rename(unfinished, key, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            os.unlink(unfinished, dir_fd=directory)
        by_age = sorted(os.listdir(directory), key=lambda name: os.stat(name, dir_fd=directory).st_mtime_ns)  # noqa: PTH208 - a descriptor
        for name in by_age[:-MAX_KEPT]:
            os.unlink(name, dir_fd=directory)


@contextlib.contextmanager
def _open_directory() -> Iterator[int]:
    """Open the directory, made if need be.

    Raises:
        OSError: it cannot be made, or others can write it.
        RuntimeError: we have no home.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    path = Path(base, "slmtrace", "bpf")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_ours_alone(os.fstat(descriptor)):
            raise PermissionError(f"{path} belongs to somebody else, or others may write it")
        yield descriptor
    finally:
        os.close(descriptor)


def _is_ours_alone(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & _WRITABLE_BY_OTHERS


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()
