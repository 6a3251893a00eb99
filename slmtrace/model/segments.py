"""Segments: a window's partition. Sorted, contiguous, summing to its length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .events import Ints, SmallInts


@dataclass(frozen=True, slots=True)
class Segments:
    """Stretches of a window as columns: each on one track, with one stage and one cause."""

    start_ns: Ints
    end_ns: Ints
    track: SmallInts
    stage: NDArray[np.uint8]  # Stage
    cause: NDArray[np.uint8]  # Cause
    event: SmallInts  # row in Trace.events that explains it, or NO_EVENT

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def dur_ns(self) -> Ints:
        """Return the lengths."""
        return self.end_ns - self.start_ns


def empty_segments() -> Segments:
    """Return no segments."""
    ints, small, octets = np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.uint8)
    return Segments(ints, ints, small, octets, octets, small)
