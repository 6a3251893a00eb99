"""Change a setting of the node for a while, and put it back whatever happens: a watchdog outlives us if we are killed.

A setting of the node is a file in /proc/sys or /sys.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..errors import SlmtraceError

# It waits for the end of its pipe, which comes when we close it or die, in a session that no signal of ours reaches.
_WATCHDOG = """
import sys
sys.stdin.buffer.read()
with open(sys.argv[1], "w") as file:
    file.write(sys.argv[2])
"""


@contextlib.contextmanager
def borrowed(path: Path) -> Iterator[None]:
    """Put the setting back at the end of the block, or at our end, whichever comes first.

    Raises:
        SlmtraceError: it cannot be read or written.
    """
    before = read_node_file(path)
    write_node_file(path, before)  # refused now rather than in the middle of a study
    watchdog = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(path), before],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        watchdog.communicate()


def read_node_file(path: Path) -> str:
    """Return a setting; of a choice such as 'always [madvise] never' the word in brackets.

    Raises:
        SlmtraceError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise SlmtraceError(f"{path} cannot be read: {error.strerror}", hint="choose another sweep") from error
    return text.partition("[")[2].partition("]")[0] if "[" in text else text


def write_node_file(path: Path, value: str) -> None:
    """Write a setting.

    Raises:
        SlmtraceError: the kernel or our privileges refuse it, or the kernel took it for another value.
    """
    try:
        path.write_text(value, encoding="ascii")
    except OSError as error:
        raise SlmtraceError(f"{path} cannot be set to {value}: {error.strerror}", hint="run as root") from error
    found = read_node_file(path)
    if found != value:
        raise SlmtraceError(
            f"{path} is {found} after {value} was written to it", hint="the kernel has no more to give: ask for less"
        )
