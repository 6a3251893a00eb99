"""The capture directory: its file names, its manifest, its raw logs.

manifest.json             written at the start (status "recording"), replaced atomically at the end
raw/<source>[.<pid>[.<n>]].bin   one raw log per source and process
trace.pftrace, breakdown.json, report.md    written when the recording ends
cache/                    derived, safe to delete
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CaptureError
from .json_file import read_json_object
from .rawlog import RawLogError, read_header
from .shape import Each, Facts, Optional, Whole, find_misfit

MANIFEST_SCHEMA = "slmtrace.capture/1"
MAX_MANIFEST_BYTES = 16 << 20
CAPTURE_SHAPE = {
    **dict.fromkeys(("id", "created", "engine", "engine_version", "model", "tier", "status"), Optional(str)),
    "command": Facts,
    "host": {"kernel": str, "cpus": int, "memory_bytes": int},
}
SOURCE_SHAPE = {"name": str, "status": str, "reason": str, "records": int, "lost": int}
LEDGER_SHAPE = {"source": str, "seen": int, "written": int, "lost": Each(int)}
MANIFEST_SHAPE = {
    "status": str,
    "capture": CAPTURE_SHAPE,
    "sources": [SOURCE_SHAPE],
    "ledger": [Whole(LEDGER_SHAPE)],
    "overhead": Each(Facts),
    "state": Each(Facts),
    "target": Optional({"pid": int, "start_ns": int, "end_ns": Optional(int), "attached_ns": int}),
}


@dataclass(frozen=True, slots=True)
class RawLog:
    """One raw log of a capture: its path and its checked header."""

    path: Path
    header: dict[str, Any]

    @property
    def source(self) -> str:
        """Return the probe that wrote it."""
        return str(self.header["source"])


@dataclass(frozen=True, slots=True)
class UnreadableLog:
    """A file among the raw logs that could not be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Capture:
    """A directory with what one recording wrote."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        """Return the path of the manifest."""
        return self.path / "manifest.json"

    @property
    def raw(self) -> Path:
        """Return the directory of the raw logs."""
        return self.path / "raw"

    @property
    def trace_path(self) -> Path:
        """Return the path of the Perfetto trace."""
        return self.path / "trace.pftrace"

    @property
    def breakdown_path(self) -> Path:
        """Return the path of the breakdown."""
        return self.path / "breakdown.json"

    @property
    def report_path(self) -> Path:
        """Return the path of the Markdown report."""
        return self.path / "report.md"

    @classmethod
    def create(cls, path: Path) -> Capture:
        """Make a new, empty capture directory, readable by its owner alone.

        Raises:
            CaptureError: the directory exists and holds something, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            if any(path.iterdir()):
                raise CaptureError(f"{path} is not empty", hint="name another directory with -o, or remove it")
            (path / "raw").mkdir(mode=0o700)
        except OSError as error:
            raise CaptureError(
                f"cannot make the capture directory {path}: {error.strerror}", hint="name a writable directory with -o"
            ) from error
        return cls(path.resolve())

    @classmethod
    def open(cls, path: Path) -> Capture:
        """Open an existing capture.

        Raises:
            CaptureError: there is no capture at `path`.
        """
        if not path.is_dir():
            raise CaptureError(f"{path}: no such capture", hint="name a capture directory or a .pftrace file")
        if not (path / "manifest.json").is_file() and not (path / "raw").is_dir():
            raise CaptureError(
                f"{path} is not a capture: it has no manifest.json and no raw/",
                hint="name a directory that slmtrace run or record wrote",
            )
        return cls(path.resolve())

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest atomically."""
        data = json.dumps({"schema": MANIFEST_SCHEMA, **manifest}, indent=1, sort_keys=True)
        self.write_text(self.manifest_path, data + "\n")

    def write_text(self, path: Path, text: str) -> None:
        """Write one of the capture's files: completely or not at all, readable by its owner alone.

        Raises:
            CaptureError: it cannot be written.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CaptureError(
                f"cannot write {path}: {error.strerror}", hint="check the directory's permissions and free space"
            ) from error

    def read_manifest(self) -> dict[str, Any]:
        """Read the manifest; a capture that lost it still has its raw logs, and reads as aborted.

        Raises:
            CaptureError: the manifest is damaged or of another version.
        """
        try:
            manifest = read_json_object(self.manifest_path, MAX_MANIFEST_BYTES, follows_links=False)
            if misfit := find_misfit(manifest, MANIFEST_SHAPE):
                raise ValueError(misfit)
        except FileNotFoundError:
            return {"schema": MANIFEST_SCHEMA, "status": "aborted"}
        except OSError as error:
            raise CaptureError(f"{self.manifest_path}: {error.strerror}", hint="check its permissions") from error
        except ValueError as error:
            raise CaptureError(
                f"{self.manifest_path} is damaged: {error}",
                hint="delete it to read the raw logs alone, or record again",
            ) from error
        if manifest.get("schema") != MANIFEST_SCHEMA:
            raise CaptureError(
                f"{self.manifest_path}: schema {str(manifest.get('schema'))[:80]!r} is unknown",
                hint="read it with the slmtrace that wrote it",
            )
        return manifest

    def raw_logs(self) -> tuple[list[RawLog], list[UnreadableLog]]:
        """List the raw logs by name, and apart those that cannot be read. Links are not followed."""
        logs: list[RawLog] = []
        unreadable: list[UnreadableLog] = []
        if not self.raw.is_dir() or self.raw.is_symlink():
            return logs, unreadable
        for path in sorted(self.raw.glob("*.bin")):
            try:
                if path.is_symlink() or not path.is_file():
                    raise RawLogError("not a regular file")
                logs.append(RawLog(path, read_header(path)))
            except (RawLogError, OSError) as error:
                unreadable.append(UnreadableLog(path, str(error)))
        return logs, unreadable
