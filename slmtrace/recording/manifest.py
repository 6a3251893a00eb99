"""What a recording says of itself: what was recorded, in which state of the node, and how every source fared."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..probes.base import ProbeResult
from ..probes.state import read_state
from ..units import format_bytes
from .facts import describe_host, describe_versions, safe_command


def first_manifest(
    options: Mapping[str, Any], *, engine: str, engine_version: str = "", model: str = "", command: Sequence[str]
) -> dict[str, Any]:
    """Return what is known before anything is recorded."""
    return {
        "status": "recording",
        "capture": {
            "id": uuid.uuid4().hex,
            "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "engine": engine,
            "engine_version": engine_version,
            "model": model,
            "tier": options["tier"],
            "command": safe_command(command),
            "host": describe_host(),
        },
        "options": dict(options),
        "versions": describe_versions(),
        "state": {},
    }


def note_state(manifest: dict[str, Any], moment: str, weight_files: Sequence[Path], pid: int | None) -> None:
    """Put the state of the node into the manifest, by topic; what goes wrong there costs no recording."""
    try:
        state = read_state(list(weight_files), pid)
    except Exception as error:  # it reads much of /proc and /sys, which differ from kernel to kernel
        state = {"error": f"{type(error).__name__}: {error}"}
    for topic, value in state.items():
        manifest["state"].setdefault(topic, {})[moment] = value


def books_of(results: Mapping[str, ProbeResult], clock: dict[str, object]) -> dict[str, Any]:
    """Return the manifest's account of every source."""
    return {
        "sources": sources_of(results),
        "ledger": [
            {"source": name, "seen": result.seen, "written": result.written, "lost": result.lost}
            for name, result in results.items()
            if result.status != "unavailable"
        ]
        + [clock],
        "overhead": {name: result.overhead for name, result in results.items() if result.overhead},
    }


def sources_of(results: Mapping[str, ProbeResult]) -> list[dict[str, Any]]:
    """Return how each source fares."""
    return [
        {
            "name": name,
            "status": result.status,
            "reason": result.reason,
            "records": result.written,
            "lost": sum(result.lost.values()),
            "facts": result.facts,
        }
        for name, result in results.items()
    ]


def warnings_of(manifest: Mapping[str, Any]) -> list[str]:
    """Return what the user should know of a recording that is complete."""
    warnings = []
    cache = manifest.get("cache") or {}
    if cache.get("mode") == "cold" and cache["resident_bytes"]:
        warnings.append(
            f"--cold: {format_bytes(cache['resident_bytes'])} of {format_bytes(cache['size_bytes'])} of weight files "
            "stayed in the page cache (a memory file system, or a program has them mapped): this was no cold load"
        )
    for source in manifest["sources"]:
        if source["status"] == "partial" and source["reason"]:
            warnings.append(f"{source['name']}: {source['reason']}")
    return warnings
