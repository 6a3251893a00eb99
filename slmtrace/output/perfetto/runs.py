"""Runs: neighbouring segments of the critical path, merged where they say the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...model.events import Ints
from ...model.report import Report
from ...model.segments import Segments

_SEGMENT_DTYPES = {
    "start_ns": np.int64,
    "end_ns": np.int64,
    "track": np.int32,
    "stage": np.uint8,
    "cause": np.uint8,
    "event": np.int64,
}


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of neighbouring segments of all windows."""

    window: Ints  # index in report.windows
    start_ns: Ints
    end_ns: Ints
    first: Ints  # the run's first segment
    segments: Segments


def all_segments(report: Report) -> tuple[Segments, Ints]:
    """Put the segments of all windows that have a length one after the other, with the window of each."""
    parts = [(number, one.segments) for number, one in enumerate(report.windows) if one.segments is not None]
    columns = {
        name: np.concatenate([np.empty(0, dtype), *(getattr(segments, name) for _, segments in parts)]).astype(dtype)
        for name, dtype in _SEGMENT_DTYPES.items()
    }
    window = np.repeat(
        np.array([number for number, _ in parts], np.int64),
        np.array([len(segments) for _, segments in parts], np.int64),
    )
    rows = columns["end_ns"] > columns["start_ns"]
    return Segments(**{name: column[rows] for name, column in columns.items()}), window[rows]


def merge(segments: Segments, window: Ints, keys: list[NDArray[np.generic]]) -> Runs:
    """Merge neighbours of one window whose keys are all equal."""
    is_first = np.ones(len(segments), bool)
    is_first[1:] = window[1:] != window[:-1]
    for key in keys:
        is_first[1:] |= key[1:] != key[:-1]
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(segments))[: len(first)] - 1
    return Runs(window[first], segments.start_ns[first], segments.end_ns[last], first, segments)


def first_within(runs: Runs, condition: NDArray[np.bool_]) -> Ints:
    """Return each run's first segment for which the condition holds, or -1."""
    candidates = np.append(np.flatnonzero(condition), len(condition))
    found = candidates[np.searchsorted(candidates, runs.first)]
    return np.where(found < np.append(runs.first[1:], len(condition)), found, -1)
