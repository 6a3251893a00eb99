"""Read range logs back as plain rows, and run Python with the instrument in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmtrace.capture.directory import RawLog
from slmtrace.capture.rawlog import read_header
from slmtrace.decode.base import Context, Fragment
from slmtrace.decode.ranges import decode
from slmtrace.instrument import environment
from slmtrace.model.events import NO_STAGE, EventKind
from slmtrace.model.quality import Quality
from slmtrace.model.strings import Strings
from slmtrace.model.taxonomy import Stage
from slmtrace.model.tracks import Tracks


@dataclass(frozen=True)
class Row:
    """One decoded event, with its texts."""

    kind: EventKind
    stage: str
    name: str
    request: str
    start_ns: int
    end_ns: int
    tid: int
    pid: int
    process: str
    count: int
    flags: int
    size_bytes: int
    work_ns: int
    detail: int


def new_context() -> Context:
    return Context(Tracks(), Strings(), Quality())


def rows_of(fragment: Fragment, context: Context) -> list[Row]:
    """Return a fragment's events in the order of their start, outer ones first."""
    events = fragment.events
    rows = []
    for i in range(len(events)):
        track = context.tracks[int(events.track[i])]
        stage = int(events.stage[i])
        rows.append(
            Row(
                EventKind(int(events.kind[i])),
                "" if stage == NO_STAGE else Stage(stage).label,
                context.strings[int(events.name[i])],
                context.strings[int(events.request[i])],
                int(events.start_ns[i]),
                int(events.end_ns[i]),
                track.tid,
                track.pid,
                track.process,
                *(int(getattr(events, name)[i]) for name in ("count", "flags", "size_bytes", "work_ns", "detail")),
            )
        )
    return sorted(rows, key=lambda row: (row.start_ns, -row.end_ns))


def read_raw(raw: Path) -> list[Row]:
    """Decode all range logs of a directory."""
    context = new_context()
    rows = []
    for path in sorted(raw.glob("ranges.*.bin")):
        rows += rows_of(decode(RawLog(path, read_header(path)), context), context)
    return sorted(rows, key=lambda row: (row.start_ns, -row.end_ns))


def run_python(
    arguments: list[str],
    raw: Path | None,
    *,
    python: str = sys.executable,
    environ: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run Python, recorded into `raw` if one is given."""
    env = {**os.environ, **(environ or {})}
    if raw is not None:
        raw.mkdir(exist_ok=True)
        env.update(environment.injected(env, str(raw)))
    return subprocess.run([python, *arguments], env=env, capture_output=True, text=True, timeout=timeout, check=False)
