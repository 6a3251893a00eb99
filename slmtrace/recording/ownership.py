"""Files written as root for somebody who used sudo belong to that somebody."""

from __future__ import annotations

import os
from pathlib import Path


def topmost_missing(path: Path) -> Path:
    """Return the first directory on the way to `path` that making it would make, or `path` itself."""
    missing = path.absolute()
    while not missing.parent.exists():
        missing = missing.parent
    return missing


def give_to_caller(directory: Path) -> None:
    """Hand a tree that we made to the user behind sudo; does nothing for anybody else. Links are not followed."""
    owner = _caller()
    if owner is None:
        return
    for parent, directories, files in os.walk(directory):
        for name in (".", *directories, *files):
            os.chown(Path(parent, name), *owner, follow_symlinks=False)


def _caller() -> tuple[int, int] | None:
    try:
        return (int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"])) if os.geteuid() == 0 else None
    except (KeyError, ValueError):
        return None
