"""Compare what a recording saw with what the kernel counted by itself, in the same run.

python -m tools.crosscheck [--size-mib N] [--keep DIR]

It records crosscheck_workload.py, and prints for each account the kernel's figure, the trace's and their difference.
Exit code 1: some account differs by more than 2 % and by more than 1 ms (for a count: by more than 2 % and 3).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmtrace.analysis import load
from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import FoldClass
from slmtrace.model.events import EventKind
from slmtrace.model.sched import Out
from slmtrace.model.trace import Trace
from slmtrace.model.tracks import TrackKind
from slmtrace.probes.state import evict_from_page_cache

WORKLOAD = Path(__file__).with_name("crosscheck_workload.py")
MAX_SHARE = 0.02
# The kernel's account begins when a thread is put on a run queue, ours when it is woken; between them lies an interrupt
# to the CPU that it will run on, tens of microseconds where that is an idle virtual one.
WAKE_NS = 50_000
SLACK = {"ns": 1_000_000, "bytes": 1 << 20, "": 3}  # by unit
READ_CALLS = ("read", "pread64", "readv", "preadv", "preadv2")

Rows = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Line:
    """One account: what the kernel says and what the trace says."""

    account: str
    unit: str
    kernel: int
    traced: int
    unseen: int = 0  # what the kernel may have left out

    @property
    def difference(self) -> int:
        """Return how far the trace's figure is from what the kernel allows."""
        return self.traced - min(max(self.traced, self.kernel), self.kernel + self.unseen)

    @property
    def share(self) -> float:
        """Return the difference as a share of the kernel's figure."""
        return abs(self.difference) / self.kernel if self.kernel else float(self.difference != 0)

    @property
    def agrees(self) -> bool:
        """Say whether they differ by no more than is allowed."""
        return self.share <= MAX_SHARE or abs(self.difference) <= SLACK[self.unit]


def main() -> int:
    """Record the workload, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size-mib", type=int, default=128, help="size of the file that is read, once, from the disk")
    parser.add_argument("--keep", type=Path, help="keep the capture here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        capture = arguments.keep or scratch / "capture"
        books = record_workload(scratch, capture, arguments.size_mib)
        lines = compare(load(Capture.open(capture)), books)
    print(f"{'account':34} {'kernel':>16} {'trace':>16} {'difference':>14} {'share':>8}")
    for line in lines:
        verdict = "" if line.agrees else "  DISAGREES"
        print(
            f"{_label(line):34} {line.kernel:16,} {line.traced:16,} {line.difference:+14,} {line.share:8.2%}{verdict}"
        )
    return 0 if all(line.agrees for line in lines) else 1


def record_workload(scratch: Path, capture: Path, size_mib: int) -> dict[str, Any]:
    """Record the workload on a cold file; return the books that it kept."""
    data, books = scratch / "data", scratch / "books.json"
    with data.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(1 << 20))
    evict_from_page_cache([data])
    command = [sys.executable, "-m", "slmtrace", "record", "-o", str(capture), "--require", "ebpf", "--"]
    subprocess.run([*command, sys.executable, str(WORKLOAD), str(data), str(books)], check=True)
    found: dict[str, Any] = json.loads(books.read_text())
    return found


def compare(trace: Trace, books: dict[str, Any]) -> list[Line]:
    """Compare every account of the books with the trace, over the time between the two readings."""
    before, after = books["before"], books["after"]
    # Between a reading's two clock reads it is open which side an event counts on; the middle errs least.
    start_ns = (before["before_ns"] + before["after_ns"]) // 2
    end_ns = (after["before_ns"] + after["after_ns"]) // 2

    def grown(account: str) -> int:
        return int(after[account]) - int(before[account])

    inside = (trace.events.start_ns >= start_ns) & (trace.events.start_ns < end_ns)
    inside &= _is_on_process(trace, before["main_tid"])
    ends = {thread["tid"]: thread["at_ns"] for thread in books["threads"]} | {before["main_tid"]: after["main_at_ns"]}
    steal_ns = grown("steal_ns")
    return [
        Line("page faults (getrusage)", "", grown("faults"), _count_faults(trace, inside)),
        Line(
            "CPU time (getrusage, steal)", "ns", grown("cpu_ns"), _cpu_ns(trace, list(ends), start_ns, end_ns), steal_ns
        ),
        Line(
            "run queue (schedstat, wakeups)",
            "ns",
            grown("main_run_queue_ns") + sum(thread["run_queue_ns"] for thread in books["threads"]),
            sum(_run_queue_ns(trace, tid, start_ns, until_ns) for tid, until_ns in ends.items()),
            steal_ns + WAKE_NS * _count_wakeups(trace, list(ends), start_ns, end_ns),
        ),
        Line("bytes read by calls (io rchar)", "bytes", grown("rchar_bytes"), _count_read_bytes(trace, inside)),
        Line("bytes into the page cache (io)", "bytes", grown("read_bytes"), _count_cached_bytes(trace, inside)),
        *_disk_lines(trace, start_ns, end_ns, grown),
    ]


def _is_on_process(trace: Trace, pid: int) -> Rows:
    tracks = [trace.tracks[row] for row in range(len(trace.tracks))]
    is_ours = [track.kind is TrackKind.THREAD and track.pid == pid for track in tracks]
    rows: Rows = np.array(is_ours, bool)[trace.events.track]
    return rows


def _is_fold(trace: Trace, fold: FoldClass) -> Rows:
    rows: Rows = (trace.events.kind == EventKind.FOLD) & (trace.events.flags == fold)
    return rows


def _count_faults(trace: Trace, inside: Rows) -> int:
    is_fault = (trace.events.kind == EventKind.FAULT) | _is_fold(trace, FoldClass.ANON_FAULT)
    is_fault |= _is_fold(trace, FoldClass.FILE_FAULT)
    return int(trace.events.count[inside & is_fault].sum())


def _count_read_bytes(trace: Trace, inside: Rows) -> int:
    names = [trace.strings.intern(name) for name in READ_CALLS]
    is_read = (trace.events.kind == EventKind.SYSCALL) & np.isin(trace.events.name, names)
    return int(trace.events.size_bytes[inside & (is_read | _is_fold(trace, FoldClass.READ))].sum())


def _count_cached_bytes(trace: Trace, inside: Rows) -> int:
    return int(trace.events.size_bytes[inside & _is_fold(trace, FoldClass.PAGE_CACHE_ADD)].sum())


def _disk_lines(trace: Trace, start_ns: int, end_ns: int, grown: Callable[[str], int]) -> list[Line]:
    """Compare completed requests of all disks: diskstats counts at completion."""
    events = trace.events
    done = (events.kind == EventKind.BLOCK_IO) & (events.end_ns >= start_ns) & (events.end_ns < end_ns)
    # A request that another is merged into after its start keeps the size that it started with, so bytes are compared
    # in the page cache's account alone.
    return [
        Line(
            f"disk {operation}s (diskstats)",
            "",
            grown(account),
            int((done & (events.name == trace.strings.intern(operation))).sum()),
        )
        for operation, account in (("read", "disk_reads"), ("write", "disk_writes"))
    ]


def _cpu_ns(trace: Trace, tids: list[int], start_ns: int, end_ns: int) -> int:
    sched = trace.sched
    is_ours = np.isin(sched.run_track, [trace.tracks.find_thread(tid) for tid in tids])
    return _overlap(sched.run_start_ns[is_ours], sched.run_end_ns[is_ours], start_ns, end_ns)


def _run_queue_ns(trace: Trace, tid: int, start_ns: int, end_ns: int) -> int:
    """Return how long a thread was runnable without a CPU: from its fork, its wakeup or its preemption to its run."""
    sched, track = trace.sched, trace.tracks.find_thread(tid)
    rows = np.flatnonzero(sched.run_track == track)
    starts, ends, outs = sched.run_start_ns[rows], sched.run_end_ns[rows], sched.run_out[rows]
    wakes = sched.wake_ns[sched.wake_track == track]
    # The first wakeup after a stretch ended; without one the thread ran on at once.
    wake_rows = np.searchsorted(wakes, ends[:-1])
    woken = np.append(wakes, np.iinfo(np.int64).max)[wake_rows]
    runnable = np.where(outs[:-1] == Out.PREEMPTED, ends[:-1], np.minimum(woken, starts[1:]))
    forked = sched.fork_ns[sched.fork_track == track]
    first = forked[:1] if len(forked) else starts[:1]
    return _overlap(np.concatenate([first, runnable]), starts, start_ns, end_ns)


def _count_wakeups(trace: Trace, tids: list[int], start_ns: int, end_ns: int) -> int:
    sched = trace.sched
    is_ours = np.isin(sched.wake_track, [trace.tracks.find_thread(tid) for tid in tids])
    return int((is_ours & (sched.wake_ns >= start_ns) & (sched.wake_ns < end_ns)).sum())


def _overlap(starts: NDArray[np.int64], ends: NDArray[np.int64], low_ns: int, high_ns: int) -> int:
    return int(np.maximum(np.minimum(ends, high_ns) - np.maximum(starts, low_ns), 0).sum())


def _label(line: Line) -> str:
    return f"{line.account}{', ' + line.unit if line.unit else ''}"


if __name__ == "__main__":
    sys.exit(main())
