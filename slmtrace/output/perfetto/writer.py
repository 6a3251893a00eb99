"""Write a trace and its report as one native Perfetto trace."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ...errors import CaptureError
from ...model.report import Report
from ...model.trace import Trace
from .critical_path import write_critical_path
from .emit import EventWriter
from .flows import link_events
from .groups import Groups
from .header import boottime_offset_ns, write_footer, write_header
from .lanes import write_counters, write_lanes
from .samples import write_samples
from .sched import write_sched


@dataclass(frozen=True, slots=True)
class TraceFile:
    """What was written: how large, how many slices, and how many slices crossed another and were cut."""

    size_bytes: int
    n_slices: int
    n_cut: int


def write_perfetto(trace: Trace, report: Report, path: Path) -> TraceFile:
    """Write the timeline to `path`, readable by its owner alone; the file is there completely, or as it was.

    Raises:
        CaptureError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=1 << 20) as file:
                written = _write(trace, report, file)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CaptureError(
            f"cannot write {path}: {error.strerror}", hint="check the directory's permissions and free space"
        ) from error
    return written


def render_perfetto(trace: Trace, report: Report) -> bytes:
    """Return the timeline as bytes."""
    buffer = io.BytesIO()
    _write(trace, report, buffer)
    return buffer.getvalue()


def _write(trace: Trace, report: Report, file: BinaryIO) -> TraceFile:
    writer = EventWriter(file, boottime_offset_ns(report))
    write_header(writer, trace, report)
    writer.begin_events(_first_ns(trace, report))
    groups = Groups(writer, trace)
    write_critical_path(writer, groups, trace, report)
    write_lanes(writer, groups, trace, link_events(trace))
    write_counters(writer, groups, trace.counters)
    write_samples(writer, trace)
    n_cut = writer.n_cut + write_sched(writer, trace)
    write_footer(writer, {"slices": writer.n_slices, "slices_cut": n_cut})
    return TraceFile(file.tell(), writer.n_slices, n_cut)


def _first_ns(trace: Trace, report: Report) -> int:
    """Return the time of the first track event."""
    starts = [window.start_ns for window in report.windows] + [loss.ts_ns for loss in trace.losses]
    columns = [trace.events.start_ns, *(series.ts_ns for series in trace.counters)]
    return min([*starts, *(int(column.min()) for column in columns if len(column))], default=0)
