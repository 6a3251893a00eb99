"""Read a JSON file that may come from anywhere: plain or gzipped, one document or one a line, of bounded size."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CaptureError

MAX_JSON_BYTES = 2 << 30
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Document:
    """The objects of a file, and a digest of its content."""

    path: Path
    objects: list[dict[str, Any]]
    digest: str

    def lists(self, key: str) -> list[dict[str, Any]]:
        """Return the objects in the lists that the file's objects have under this key."""
        return [one for entry in self.objects for one in objects_in(entry.get(key))]

    def has(self, key: str) -> bool:
        """Say whether some object has a list under this key."""
        return any(isinstance(entry.get(key), list) for entry in self.objects)


def read_document(path: Path) -> Document:
    """Read a file of JSON, or of one JSON object a line.

    Raises:
        CaptureError: it cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            content = (gzip.GzipFile(fileobj=file) if is_gzip else file).read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
        objects = _parse(content)
        if not all(isinstance(one, dict) for one in objects):
            raise ValueError("not an object")
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise CaptureError(
            f"{path} cannot be read: {str(error)[:200]}",
            hint="name a JSON trace of torch.profiler, or spans of OpenTelemetry as OTLP JSON",
        ) from error
    return Document(path, objects, hashlib.sha256(content).hexdigest()[:32])


def objects_in(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; of anything else, none."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _parse(content: bytes) -> list[Any]:
    try:
        return [json.loads(content)]
    except ValueError:
        # The collector's file exporter writes one request a line.
        lines = [line for line in content.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        return [json.loads(line) for line in lines]
