"""The report as a Parquet table: one row for each window, stage, phase and cause, to be joined over many runs.

The times of a window's rows sum to its length. A report from a trace file knows no stage of a cause: its rows say null.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import UsageError
from ..model.report import Report, WindowReport
from ..model.taxonomy import Cause, Stage
from .plain import plain

SCHEMA = "slmtrace.rows/1"
_COLUMNS = (
    ("capture_id", "string"),
    ("created", "string"),
    ("engine", "string"),
    ("engine_version", "string"),
    ("model", "string"),
    ("tier", "string"),
    ("window", "string"),
    ("index", "int32"),
    ("request_id", "string"),
    ("window_ns", "int64"),
    ("stage", "string"),
    ("phase", "string"),
    ("cause", "string"),
    ("ns", "int64"),
)


def render_parquet(report: Report) -> bytes:
    """Render the rows as a Parquet file; the same report gives the same bytes.

    Raises:
        UsageError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError as error:
        raise UsageError("pyarrow is not installed", hint="pip install 'slmtrace[parquet]'") from error
    schema = pa.schema(
        [pa.field(name, pa.type_for_alias(kind)) for name, kind in _COLUMNS], metadata={"schema": SCHEMA}
    )
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows_of(report)), schema=schema), buffer, compression="zstd")
    return buffer.getvalue()


def rows_of(report: Report) -> Iterator[dict[str, Any]]:
    """Yield the rows as mappings, by window, stage and cause."""
    capture = {
        "capture_id": plain(report.capture.get("id", "")),
        **{key: plain(report.capture.get(key, "")) for key in ("created", "engine", "engine_version", "model", "tier")},
    }
    for window in report.windows:
        common = {
            **capture,
            "window": window.kind.label,
            "index": window.index,
            "request_id": plain(window.request_id),
            "window_ns": window.total_ns,
        }
        for stage, cause, ns in _shares(window):
            what = {"stage": stage, "phase": cause.phase.label, "cause": cause.label, "ns": ns}
            yield {**common, **what}


def _shares(window: WindowReport) -> Iterator[tuple[str | None, Cause, int]]:
    segments = window.segments
    if segments is None:
        yield from ((None, share.cause, share.ns) for share in window.causes)
        return
    key = segments.stage.astype(np.int64) << 8 | segments.cause
    distinct, inverse = np.unique(key, return_inverse=True)
    sums = np.zeros(len(distinct), np.int64)
    np.add.at(sums, inverse.ravel(), segments.dur_ns)
    for one, ns in zip(distinct.tolist(), sums.tolist(), strict=True):
        yield Stage(one >> 8).label, Cause(one & 0xFF), ns
