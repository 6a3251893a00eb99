"""Small C libraries for the target, compiled at their first use and cached by source, flags and layouts."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import SlmtraceError

COMPILERS = ("cc", "gcc", "clang")


def build(source: Path, flags: Sequence[str], what: str) -> Path:
    """Return the compiled library of a C source, compiling it when the cache has none; `what` names it in errors.

    Raises:
        SlmtraceError: there is no C compiler, or it failed.
    """
    digest = hashlib.sha256(source.read_bytes() + "\0".join(flags).encode()).hexdigest()[:16]
    path = _cache_dir(what) / f"shim-{source.stem.removesuffix('_shim')}-{digest}.so"
    if not path.is_file():
        _compile(source, flags, path, what)
    return path


def _compile(source: Path, flags: Sequence[str], path: Path, what: str) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise SlmtraceError(f"no C compiler for {what}", hint="apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        built = Path(scratch) / path.name
        done = subprocess.run(
            [compiler, *flags, "-o", str(built), str(source), "-ldl"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            first_error = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
            raise SlmtraceError(f"{compiler} cannot build {what}: {first_error}", hint="apt-get install libc6-dev")
        # A rename is atomic: two recordings that compile at once each load a whole file.
        built.rename(path)


def _cache_dir(what: str) -> Path:
    """Return our directory for compiled libraries."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = base / "slmtrace"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise SlmtraceError(
            f"cannot make {directory} for {what}: {error.strerror}", hint="set XDG_CACHE_HOME to a directory"
        ) from error
    if set(" :") & set(str(directory)):
        raise SlmtraceError(
            f"LD_PRELOAD cannot name {what} in {directory}", hint="set XDG_CACHE_HOME to a path without spaces"
        )
    return directory
