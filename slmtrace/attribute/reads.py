"""What was read from devices in a window, file by file, and which wait it belongs to.

The page cache's own records (mm_filemap_add_to_page_cache) say exactly how many bytes of which file came in. The time
that the path waited for them and the bytes are two views of one cause, also when readahead hid the wait altogether.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np

from ..capture.layout import FoldClass
from ..model.events import EventKind
from ..model.report import CauseShare
from ..model.taxonomy import Cause
from ..model.trace import Trace, Window

MOST_FILES = 32  # files that a report lists for what was read, beside those that were waited for
DEVICE_WAITS = (Cause.BLOCK_IO_WAIT, Cause.MAJOR_FAULT, Cause.READAHEAD_WAIT)


@dataclass(frozen=True, slots=True)
class DeviceRead:
    """What came into the page cache of one file."""

    file: str
    size_bytes: int


def device_reads(window: Window, trace: Trace) -> list[DeviceRead]:
    """Return what the traced tree read from devices during the window, largest first."""
    events = trace.events
    folds = events.of_kind(EventKind.FOLD)
    rows = folds[events.flags[folds] == FoldClass.PAGE_CACHE_ADD]
    rows = rows[(events.start_ns[rows] >= window.start_ns) & (events.start_ns[rows] < window.end_ns)]
    files, inverse = np.unique(events.file[rows], return_inverse=True)
    size_bytes = np.zeros(len(files), np.int64)
    np.add.at(size_bytes, inverse, events.size_bytes[rows])
    reads = [DeviceRead(trace.strings[f], size) for f, size in zip(files.tolist(), size_bytes.tolist(), strict=True)]
    return sorted(reads, key=lambda read: (-read.size_bytes, read.file))


def add_device_reads(shares: list[CauseShare], reads: list[DeviceRead]) -> list[CauseShare]:
    """Give each file's bytes to the wait that it caused most of; where nothing waited, to readahead with 0 ns."""
    by_cause = {share.cause: share for share in shares}
    waits = [by_cause[cause] for cause in DEVICE_WAITS if cause in by_cause]
    largest = max(waits, key=lambda share: share.ns, default=CauseShare(Cause.READAHEAD_WAIT, 0, 0, 0, {}))
    ns_by_file = {share.cause: _ns_by_file(share) for share in waits}
    reads_by_cause: dict[Cause, list[DeviceRead]] = defaultdict(list)
    for read in reads:
        best = max(waits, key=lambda share: (ns_by_file[share.cause].get(read.file, 0), share.ns), default=largest)
        reads_by_cause[best.cause].append(read)
    for cause, group in reads_by_cause.items():
        by_cause[cause] = _with_reads(by_cause.get(cause, largest), group)
    return list(by_cause.values())


def _ns_by_file(share: CauseShare) -> dict[str, int]:
    return {entry["name"]: entry["ns"] for entry in share.detail.get("files", [])}


def _with_reads(share: CauseShare, reads: list[DeviceRead]) -> CauseShare:
    """Add what was read to the files of a share; beyond the largest, files that nothing waited for are only summed."""
    entries = {entry["name"]: dict(entry) for entry in share.detail.get("files", [])}
    n_small, small_bytes = 0, 0
    for position, read in enumerate(reads):
        name = read.file or "(unknown file)"
        if name not in entries and position >= MOST_FILES:
            n_small, small_bytes = n_small + 1, small_bytes + read.size_bytes
        else:
            entry = entries.setdefault(name, {"name": name, "ns": 0, "count": 0, "bytes": 0})
            entry["bytes"] += read.size_bytes
    files = list(entries.values())
    if n_small:
        files.append({"name": f"({n_small} smaller files)", "ns": 0, "count": 0, "bytes": small_bytes})
    size_bytes = share.size_bytes + sum(read.size_bytes for read in reads)
    return replace(share, size_bytes=size_bytes, detail={**share.detail, "files": files})
