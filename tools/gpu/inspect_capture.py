"""Print what a capture's CUDA part holds: counts, totals per request, losses, clocks, costs.

Usage: inspect_capture.py CAPTURE
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from slmtrace.analysis import load
from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import MARK_REQUEST_END, MARK_REQUEST_START
from slmtrace.model.events import EventKind
from slmtrace.model.trace import Trace
from slmtrace.model.windows import find_windows, marks

_GPU = {"kernel": EventKind.GPU_KERNEL, "memcpy": EventKind.GPU_MEMCPY, "memset": EventKind.GPU_MEMSET}
TOP = 12


def main(path: str) -> None:
    begin_s = time.monotonic()
    capture = Capture.open(Path(path))
    trace = load(capture)
    print(f"decoded in {time.monotonic() - begin_s:.2f} s; quality: {trace.quality.lines()}")
    for line in trace.ledger:
        print("ledger", line)
    print("clock residual ns", trace.clock_residual_ns)
    for source in trace.manifest.get("sources", []):
        print("source", {key: source[key] for key in ("name", "status", "reason") if key in source})
    print("overhead", trace.manifest.get("overhead"))
    print("logs", {log.name: log.stat().st_size for log in sorted(capture.raw.glob("*.bin"))})
    events = trace.events
    print("events", dict(Counter(EventKind(kind).name for kind in events.kind.tolist())))
    for kind in (EventKind.GPU_KERNEL, EventKind.GPU_MEMCPY, EventKind.CUDA_API, EventKind.GPU_SYNC, EventKind.NOTE):
        print_top(trace, kind)
    print_requests(trace)
    for window in find_windows(trace):
        print_window(trace, window.label, window.start_ns, window.end_ns)


def print_top(trace: Trace, kind: EventKind) -> None:
    events = trace.events
    rows = np.flatnonzero(events.kind == kind)
    names, inverse = np.unique(events.name[rows], return_inverse=True)
    sums = np.bincount(inverse, weights=(events.end_ns - events.start_ns)[rows], minlength=len(names))
    counts = np.bincount(inverse, minlength=len(names))
    print(f"{kind.name}: {len(rows)} events, {len(names)} names, {sums.sum() / 1e6:.3f} ms")
    for at in np.argsort(-sums)[:TOP].tolist():
        print(f"  {sums[at] / 1e6:12.3f} ms  {counts[at]:8d}  {trace.strings[int(names[at])]}")


def print_requests(trace: Trace) -> None:
    """Print each request's counts and sums from its start to its end, as hf_workload.py --profile does."""
    for number, (start, end) in enumerate(
        zip(marks(trace, MARK_REQUEST_START), marks(trace, MARK_REQUEST_END), strict=False)
    ):
        texts = [f"{name} {n} {ns / 1e6:.3f} ms" for name, n, ns in totals(trace, start.ts_ns, end.ts_ns)]
        print(f"slmtrace request {number}: {', '.join(texts)}")


def totals(trace: Trace, start_ns: int, end_ns: int) -> list[tuple[str, int, int]]:
    events = trace.events
    inside = (events.start_ns >= start_ns) & (events.start_ns < end_ns)
    found = []
    for name, kind in _GPU.items():
        rows = inside & (events.kind == kind)
        found.append((name, int(rows.sum()), int((events.end_ns - events.start_ns)[rows].sum())))
    return found


def print_window(trace: Trace, label: str, start_ns: int, end_ns: int) -> None:
    texts = [f"{name} {n} {ns / 1e6:.3f} ms" for name, n, ns in totals(trace, start_ns, end_ns)]
    print(f"window {label}: {(end_ns - start_ns) / 1e6:.3f} ms, {', '.join(texts)}")
    events = trace.events
    waits = np.flatnonzero(
        (events.kind == EventKind.GPU_SYNC) & (events.end_ns > start_ns) & (events.start_ns < end_ns)
    )
    waited_ns = int((np.minimum(events.end_ns, end_ns) - np.maximum(events.start_ns, start_ns))[waits].sum())
    print(f"  {len(waits)} waits for the GPU, {waited_ns / 1e6:.3f} ms")


if __name__ == "__main__":
    main(*sys.argv[1:])
