"""Where a study writes to: refused at once rather than after minutes of recording."""

from __future__ import annotations

from pathlib import Path

from ..errors import UsageError


def require_directory(path: Path | None, option: str) -> None:
    """Accept a directory, or what may become one.

    Raises:
        UsageError: something else is there.
    """
    if path is not None and path.exists() and not path.is_dir():
        raise UsageError(f"{path} is not a directory", hint=f"name another one with {option}")


def require_parent(path: Path | None, option: str) -> None:
    """Accept a file whose directory is there.

    Raises:
        UsageError: it is not.
    """
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a directory", hint=f"make it, or name another file with {option}")
