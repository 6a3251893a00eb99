"""Cut segments at given edges, and say which stretch covers an instant. Segments here need not be contiguous."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..model.events import Ints, distinct_times
from ..model.segments import Segments


def covering(ts_ns: Ints, edges: Ints, which: NDArray[np.intp]) -> Ints:
    """Return the piece among `which` that covers each instant, -1 where there is none."""
    if not len(which):
        return np.full(len(ts_ns), -1, np.int64)
    start, end = edges[which].T
    at = np.searchsorted(start, ts_ns, side="right") - 1
    return np.where((at >= 0) & (ts_ns < end[at]), which[at], -1)


def cut_at(segments: Segments, edges: Ints) -> Segments:
    """Cut segments at every edge."""
    bounds = distinct_times(np.concatenate([segments.start_ns, segments.end_ns, edges.ravel()]))
    at = np.searchsorted(segments.start_ns, bounds[:-1], side="right") - 1
    inside = (at >= 0) & (bounds[:-1] < segments.end_ns[at])
    cut = take(segments, at[inside])
    return Segments(bounds[:-1][inside], bounds[1:][inside], cut.track, cut.stage, cut.cause, cut.event)


def take(segments: Segments, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Segments:
    """Return the segments of these rows."""
    columns = (segments.start_ns, segments.end_ns, segments.track, segments.stage, segments.cause, segments.event)
    return Segments(*(column[rows] for column in columns))  # type: ignore[arg-type]
