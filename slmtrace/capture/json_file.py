"""Read a JSON file that may come from anywhere: of bounded size, and waiting for nobody. Standard library only."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any


def read_json_object(path: Path, limit_bytes: int, *, follows_links: bool) -> dict[str, Any]:
    """Read a regular file that holds one JSON object.

    Raises:
        OSError: it cannot be read, or is a pipe, a device, or a link that is not to be followed.
        ValueError: it is larger, or holds something else.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follows_links else os.O_NOFOLLOW)
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ValueError("too large")
    try:
        value = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
