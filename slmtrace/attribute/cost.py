"""What recording itself cost each window: an estimate from the recorders' own measurements.

A range costs what one record was measured to cost before the run. A kernel event costs the runs of the BPF programs
that handled it, each at what the kernel timed for it (BPF_ENABLE_STATS) in the target's first second. A sample for spin
loops is an interrupt besides. A GPU kernel costs what its launch was measured to take longer on an H100, for CUPTI
tells nothing of it. Not in the sum: what CUPTI does with its buffers, which are calls of their own in the timeline
(`cupti buffer flush`), and the trap of a uprobe, of which only the program behind it is timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..capture.layout import SPIN_PERIOD_NS, FoldClass
from ..model.events import EventKind, Events, Ints, SmallInts
from ..model.report import WindowReport
from ..model.trace import Trace
from ..model.tracks import TrackKind

METHOD = "records, BPF program runs and recorded GPU kernels on the window's path, each at its measured cost"

_RANGES = (EventKind.RANGE, EventKind.IMPORT, EventKind.DLOPEN, EventKind.MARK, EventKind.ASYNC)
_FAULT_FOLDS = (FoldClass.ANON_FAULT, FoldClass.FILE_FAULT)

# tools/gpu/overhead.py, launch-bound: 7.7 to 18.5 ms longer with 4,833 kernels, which is 1.6 to 3.8 us each.
_KERNEL_NS = 2_000

# tools/bench/interrupts.py, on a virtual machine.
_INTERRUPT_NS = 5_000

# Which BPF programs run for one event of a kind.
_FAULT_PROGRAMS = ("on_fault_user", "on_fault_minor")
_SYSCALL_PROGRAMS = ("on_sys_enter", "on_sys_exit")
_MALLOC_PROGRAMS = ("on_malloc", "on_malloc_return")
_PAGE_CACHE_PROGRAMS = ("on_filemap_add",)
_DRIVER_PROGRAMS = ("on_driver_call", "on_driver_return")


def recording_cost(trace: Trace, windows: Sequence[WindowReport]) -> dict[str, Any]:
    """Return the recorders' accounts, and of each window what the recording took of it.

    What a thread recorded while the window's path was on another one took nothing of the window.
    """
    accounts = trace.manifest.get("overhead", {})
    range_ns = _number(accounts, "ranges", "ns_per_record")
    ns_per_run = _mapping(_mapping(accounts, "ebpf"), "ns_per_run")
    is_of_thread = np.zeros(len(trace.tracks), bool)
    is_of_thread[trace.tracks.rows(TrackKind.THREAD)] = True
    records = _Records(trace.events.track, trace.events.start_ns)
    runs = _Records(trace.sched.run_track, trace.sched.run_start_ns)
    wakeups = _Records(trace.sched.wake_by, trace.sched.wake_ns)
    costs = []
    for window in windows:
        rows, is_on_path = records.within(window)
        # A lane or a stream is no thread: which one made its records is not known, and they count in any case.
        rows = rows[is_on_path | ~is_of_thread[trace.events.track[rows]]]
        n_by_kind = np.bincount(trace.events.kind[rows], minlength=256)
        n_switches, n_wakeups = (int(table.within(window)[1].sum()) for table in (runs, wakeups))
        bpf_ns = _bpf_ns(window, trace.events, rows, n_switches, n_wakeups, ns_per_run)
        ns = round(range_ns * int(n_by_kind[list(_RANGES)].sum()) + bpf_ns)
        ns += _KERNEL_NS * int(n_by_kind[EventKind.GPU_KERNEL])
        costs.append(
            {"name": window.kind.label, "index": window.index, "ns": ns, "share": round(ns / window.total_ns, 6)}
        )
    return {**accounts, "windows": costs, "method": METHOD}


class _Records:
    """When and on which track something was recorded."""

    def __init__(self, track: SmallInts, ts_ns: Ints) -> None:
        self._track, self._rows = track, np.argsort(ts_ns, kind="stable")
        self._ts_ns = ts_ns[self._rows]

    def within(self, window: WindowReport) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the rows within a window, and of each whether the window's path was on its track then."""
        low, high = np.searchsorted(self._ts_ns, [window.start_ns, window.end_ns])
        rows, ts_ns = self._rows[low:high], self._ts_ns[low:high]
        path = window.segments
        if not path:
            return rows, np.zeros(len(rows), np.bool_)
        step = np.searchsorted(path.start_ns, ts_ns, side="right") - 1
        return rows, path.track[step] == self._track[rows]


def _bpf_ns(
    window: WindowReport, events: Events, rows: Ints, n_switches: int, n_wakeups: int, ns_per_run: Mapping[str, Any]
) -> float:
    n_samples = window.total_ns // SPIN_PERIOD_NS if "on_clock" in ns_per_run else 0
    kind, count = events.kind[rows], events.count[rows]
    folds = np.flatnonzero(kind == EventKind.FOLD)
    by_kind, by_class = _sums(kind, count), _sums(events.flags[rows[folds]], count[folds])
    n_fault_folds = sum(by_class[fold_class] for fold_class in _FAULT_FOLDS)
    n_added, n_malloc_folds = by_class[FoldClass.PAGE_CACHE_ADD], by_class[FoldClass.MALLOC]
    n_syscall_folds = by_kind[EventKind.FOLD] - n_fault_folds - n_added - n_malloc_folds
    counts = [
        (_FAULT_PROGRAMS, by_kind[EventKind.FAULT] + n_fault_folds),
        (_SYSCALL_PROGRAMS, by_kind[EventKind.SYSCALL] + n_syscall_folds),
        (_MALLOC_PROGRAMS, by_kind[EventKind.MALLOC] + n_malloc_folds),
        (_DRIVER_PROGRAMS, int(np.count_nonzero(kind == EventKind.CUDA_API))),
        (_PAGE_CACHE_PROGRAMS, n_added),
        (("on_switch",), n_switches),
        (("on_waking",), n_wakeups),
        (("on_clock",), n_samples),
    ]
    return n_samples * _INTERRUPT_NS + sum(n * sum(_value(ns_per_run, name) for name in names) for names, n in counts)


def _sums(keys: NDArray[np.unsignedinteger], counts: SmallInts) -> list[int]:
    """Return the sum of the counts of each key, by key, up to the largest of any EventKind or FoldClass."""
    sums = np.zeros(256, np.int64)
    known = np.flatnonzero(keys < len(sums))
    np.add.at(sums, keys[known].astype(np.intp), counts[known])
    by_key: list[int] = sums.tolist()
    return by_key


def _mapping(accounts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = accounts.get(key)
    return value if isinstance(value, Mapping) else {}


def _number(accounts: Mapping[str, Any], source: str, key: str) -> float:
    return _value(_mapping(accounts, source), key)


def _value(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key)
    return float(value) if isinstance(value, int | float) else 0.0
