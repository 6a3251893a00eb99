"""A GPU library's own preparation before it loads code or brings up CUDA: dlopen, unpacking, choosing kernels.

Nothing records it by itself. But a host that launches keeps its GPU supplied every few microseconds, so where a call
that loads modules, initialises or compiles ends a millisecond or more without new work on any stream, that time was
the way to the call: first use, not launching. Where no kernels were recorded, launches do not show: it is said of the
load and the first request only, and may hold a forward pass of launches too many.
"""

from __future__ import annotations

import numpy as np

from ..model.events import EventKind, Ints
from ..model.segments import Segments
from ..model.taxonomy import Cause
from ..model.trace import Window
from .cuts import covering, cut_at
from .evidence import EvidenceBook
from .rules import Evidence
from .streams import ProcessWork

_SHORTEST_NS = 1_000_000
_FIRST_USES = (Evidence.CUDA_MODULE, Evidence.CUDA_INIT, Evidence.CUDA_JIT)
# Inside cudaLaunchKernel: the launch is what loads (CUDA Programming Guide, "Lazy Loading").
_LAZY = "lazy function loading"


def name_first_uses(window: Window, mine: Segments, track: int, work: ProcessWork, book: EvidenceBook) -> Segments:
    """Name the launch work of a thread that was in truth the way to a first use."""
    if window.index and not work.has_kernels:
        return mine
    events = book.trace.events
    rows = book.trace.rows_of_track(track)
    inside = (events.start_ns[rows] >= window.start_ns) & (events.start_ns[rows] < window.end_ns)
    inside &= (events.kind[rows] == EventKind.CUDA_API) & np.isin(book.evidence[rows], _FIRST_USES)
    rows = rows[inside]
    start_ns = np.maximum(_last_before(events.start_ns[rows], work.starts_ns, window), _ends_before(rows, book, window))
    long = events.start_ns[rows] - start_ns >= _SHORTEST_NS
    rows, edges = rows[long], np.stack([start_ns, events.start_ns[rows]], axis=1)[long]
    if not len(rows):
        return mine
    is_lazy = events.name[rows] == book.trace.strings.intern(_LAZY)
    cut = cut_at(mine, edges)
    at = covering(cut.start_ns, edges, np.arange(len(edges)))
    named = np.where(is_lazy[at], Cause.MODULE_LOAD, Cause.LIBRARY_INIT)
    cause = np.where((at >= 0) & (cut.cause == Cause.LAUNCH), named, cut.cause).astype(np.uint8)
    return Segments(cut.start_ns, cut.end_ns, cut.track, cut.stage, cause, cut.event)


def _last_before(ts_ns: Ints, starts_ns: Ints, window: Window) -> Ints:
    """Return the last start before each instant, or the window's."""
    at = np.searchsorted(starts_ns, ts_ns, side="left")
    last_ns: Ints = np.concatenate([[window.start_ns], starts_ns])[at]
    return np.maximum(last_ns, window.start_ns)


def _ends_before(rows: Ints, book: EvidenceBook, window: Window) -> Ints:
    """Return when the calls before each of these had all ended, or the window's start."""
    ends = np.concatenate([[window.start_ns], np.maximum.accumulate(book.trace.events.end_ns[rows])])
    return ends[:-1].astype(np.int64)
