"""What the rules read beside a window's sums: counters, block requests, who had the CPU, tokens. From the trace alone.

A fact that no source recorded is 0 or absent, so that a rule which needs it says nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..capture.layout import MARK_REQUEST_END, MARK_REQUEST_START, FoldClass
from ..model.events import NO_EVENT, ByStart, EventKind, Ints, by_start, distinct_rows, union
from ..model.report import WindowReport
from ..model.sched import Sched
from ..model.segments import Segments
from ..model.taxonomy import Cause, Stage
from ..model.trace import CounterSeries, Trace
from ..model.windows import NEVER_READY, Mark, broken_off_ns, marks
from .imports import ImportedAgain, imported_again, modules_known_above
from .intervals import Intervals, covered_ns, intervals
from .lookups import searched_ns

# What waits for a block device.
DEVICE_WAITS = (Cause.BLOCK_IO_WAIT, Cause.MAJOR_FAULT, Cause.READAHEAD_WAIT)
_READ, _WRITE = "read", "write"
# Of the CPUs' time during a wait: less, and others had a part in it.
_NEARLY_ALL = 0.8
# A read is under way for microseconds before and after it is in flight. Who holds reads back does so by the millisecond
# (blk-throttle's slices are 20 and 100 ms).
_HELD_NS = 1_000_000
_DEEPEST = 10  # packages within packages
# Labels of the ranges that turn text into tokens, whose size is what they made.
_TOKENIZERS = ("tokenizer",)


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """Reads of the block devices in a window, and what was written meanwhile, whoever asked for it."""

    n_reads: int = 0
    size_bytes: int = 0
    written_bytes: int = 0
    busy_ns: int = 0  # some read was in flight
    idle_wait_ns: int = 0  # on path, in waits for a device with long stretches in which no read was in flight on any
    latency_ns: int = 0  # median of one read

    @property
    def mean_bytes(self) -> int:
        """Return the mean size of a read."""
        return self.size_bytes // self.n_reads if self.n_reads else 0


@dataclass(frozen=True, slots=True)
class WindowFacts:
    """What is known of one window beside its report."""

    grown: Mapping[str, int] = field(default_factory=dict)  # how much each counter grew around the window
    device: DeviceUse = field(default_factory=DeviceUse)
    busy_cpus: float = 0.0  # on which threads of the tree ran while the path computed on a CPU
    own_queue_ns: int = 0  # on path, runnable, while threads of the tree had the CPUs
    others_ns: int | None = None  # what others ran at most around the window, on all CPUs together; None: not known
    fault_ns: int = 0  # what a page fault on anonymous memory costs on this machine when nothing is in its way
    n_tokens: int = 0  # that the tokenizer made
    compiled_ns: int = 0  # on path, in compiling the sources of imported modules
    n_compiled: int = 0  # such modules
    n_misfits: int = 0  # those of them that had a compiled file, which did not fit the source
    searched_ns: int = 0  # on path, in imports, beside the calls of long searches for a module
    again: ImportedAgain = field(default_factory=ImportedAgain)
    idle_ns: int = 0  # between the end of the last request before it and its start, with none under way
    broken_off_ns: int | None = None  # the target was killed, or interrupted, and never got ready


def gather(trace: Trace, windows: Sequence[WindowReport]) -> list[WindowFacts]:
    """Return the facts of each window."""
    fault_ns = _fault_cost_ns(trace)
    runs_by_cpu = _runs_by_cpu(trace.sched)
    found = _Found(*(by_start(rows, trace.events.start_ns, trace.events.end_ns) for rows in _rows(trace)))
    requests = marks(trace, MARK_REQUEST_START), marks(trace, MARK_REQUEST_END)
    known_by_pid = modules_known_above(trace)
    return [
        _facts(trace, window, fault_ns, runs_by_cpu, found, _idle_ns(window, *requests), known_by_pid)
        for window in windows
    ]


class _Found(NamedTuple):
    """The few events that the facts of any window come from."""

    block_io: ByStart
    file_reads: ByStart
    tokenizing: ByStart


def _rows(trace: Trace) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of what is found, in that order."""
    events = trace.events
    yield events.of_kind(EventKind.BLOCK_IO)
    is_read = (events.kind == EventKind.SYSCALL) | ((events.kind == EventKind.FOLD) & (events.flags == FoldClass.READ))
    yield np.flatnonzero(is_read & (events.file > 0))
    names = [trace.strings.intern(name) for name in _TOKENIZERS]
    ranges = np.flatnonzero((events.kind == EventKind.RANGE) & (events.stage == Stage.TOKENIZE))
    yield ranges[np.isin(events.name[ranges], names)]


def _facts(
    trace: Trace,
    window: WindowReport,
    fault_ns: int,
    runs_by_cpu: Sequence[Intervals],
    found: _Found,
    idle_ns: int,
    known_by_pid: Mapping[int, set[int]],
) -> WindowFacts:
    compiled_ns, n_compiled, n_misfits = _compiled(trace, window, found.file_reads)
    others_ns = _others_ns(trace.counters, window, runs_by_cpu)
    tokenizing = found.tokenizing.starting(window.start_ns, window.end_ns)
    return WindowFacts(
        grown=_growth(trace.counters, window),
        device=_device_use(trace, window, found.block_io),
        busy_cpus=_busy_cpus(window, runs_by_cpu),
        own_queue_ns=_own_queue_ns(window, runs_by_cpu, others_ns),
        others_ns=others_ns,
        fault_ns=fault_ns,
        n_tokens=int(trace.events.size_bytes[tokenizing].sum()),
        compiled_ns=compiled_ns,
        n_compiled=n_compiled,
        n_misfits=n_misfits,
        searched_ns=searched_ns(trace, window),
        again=imported_again(trace, window, known_by_pid),
        idle_ns=idle_ns,
        broken_off_ns=broken_off_ns(trace) if window.note.startswith(NEVER_READY) else None,
    )


def _idle_ns(window: WindowReport, starts: Sequence[Mark], ends: Sequence[Mark]) -> int:
    before = [mark for mark in ends if mark.ts_ns <= window.start_ns]
    under_way = {mark.request for mark in starts if mark.ts_ns < window.start_ns} - {mark.request for mark in before}
    return window.start_ns - before[-1].ts_ns if before and not under_way else 0


def _growth(counters: Sequence[CounterSeries], window: WindowReport) -> dict[str, int]:
    """Return how much each counter grew from its last reading before the window to its first reading after it."""
    grown = {}
    for series in counters:
        if not len(series.ts_ns):
            continue
        low, high = _readings_around(series, window)
        grown[series.name] = int(series.value[high] - series.value[low]) if high > low else 0
    return grown


def _readings_around(series: CounterSeries, window: WindowReport) -> tuple[int, int]:
    """Return the last reading before a window and the first one after it, or the nearest that there are."""
    low = max(int(np.searchsorted(series.ts_ns, window.start_ns, side="right")) - 1, 0)
    return low, min(int(np.searchsorted(series.ts_ns, window.end_ns, side="left")), len(series.ts_ns) - 1)


def _others_ns(counters: Sequence[CounterSeries], window: WindowReport, runs_by_cpu: Sequence[Intervals]) -> int | None:
    """Return how long at most others than the tree kept the CPUs busy, between the readings around a window."""
    busy = next((series for series in counters if series.name == "cpu busy" and len(series.ts_ns)), None)
    if busy is None or not runs_by_cpu:
        return None
    low, high = _readings_around(busy, window)
    start_ns, end_ns = busy.ts_ns[[low]], busy.ts_ns[[high]]
    own_ns = sum(int(covered_ns(runs, start_ns, end_ns).sum()) for runs in runs_by_cpu)
    unread_ns = max(int(start_ns[0]) - window.start_ns, 0) + max(window.end_ns - int(end_ns[0]), 0)
    # In a time without readings others may have had all CPUs.
    return max(1000 * int(busy.value[high] - busy.value[low]) - own_ns, 0) + unread_ns * len(runs_by_cpu)


def _device_use(trace: Trace, window: WindowReport, block_io: ByStart) -> DeviceUse:
    events = trace.events
    inside = block_io.meeting(window.start_ns, window.end_ns)
    rows = inside[events.name[inside] == trace.strings.intern(_READ)]
    writes = inside[events.name[inside] == trace.strings.intern(_WRITE)]
    written_bytes = int(events.size_bytes[writes].sum())
    if not len(rows):
        return DeviceUse(written_bytes=written_bytes)
    in_flight = intervals(*union(events.start_ns[rows], events.end_ns[rows]))
    return DeviceUse(
        n_reads=len(rows),
        size_bytes=int(events.size_bytes[rows].sum()),
        written_bytes=written_bytes,
        busy_ns=int(covered_ns(in_flight, np.array([window.start_ns]), np.array([window.end_ns])).sum()),
        idle_wait_ns=_idle_wait_ns(in_flight, window.segments),
        latency_ns=int(np.median(events.end_ns[rows] - events.start_ns[rows])),
    )


def _idle_wait_ns(in_flight: Intervals, segments: Segments | None) -> int:
    if segments is None:
        return 0
    waits = np.isin(segments.cause, DEVICE_WAITS)
    start_ns, end_ns = segments.start_ns[waits], segments.end_ns[waits]
    idle_ns = end_ns - start_ns - covered_ns(in_flight, start_ns, end_ns)
    return int(idle_ns[idle_ns >= _HELD_NS].sum())


def _runs_by_cpu(sched: Sched) -> list[Intervals]:
    """Return when threads of the tree ran on each CPU that they ever ran on."""
    runs = []
    for cpu in np.unique(sched.run_cpu).tolist():
        rows = np.flatnonzero(sched.run_cpu == cpu)
        rows = rows[np.argsort(sched.run_start_ns[rows], kind="stable")]
        runs.append(intervals(sched.run_start_ns[rows], sched.run_end_ns[rows]))
    return runs


def _own_queue_ns(window: WindowReport, runs_by_cpu: Sequence[Intervals], others_ns: int | None) -> int:
    """Return how long the path waited for a CPU because of threads of the tree.

    Those had all CPUs, or nearly. Or one of them had one, and others ran for too little time to be the cause.
    """
    if not runs_by_cpu:
        return 0
    waited_ns, held_ns = _during(window.segments, Cause.RUN_QUEUE, runs_by_cpu)
    crowded_ns = int(waited_ns[held_ns >= _NEARLY_ALL * len(runs_by_cpu) * waited_ns].sum())
    if others_ns is None:
        return crowded_ns
    return max(crowded_ns, min(int(waited_ns.sum()) - others_ns, int(np.minimum(waited_ns, held_ns).sum())))


def _busy_cpus(window: WindowReport, runs_by_cpu: Sequence[Intervals]) -> float:
    computed_ns, ran_ns = _during(window.segments, Cause.CPU_KERNEL, runs_by_cpu)
    return float(ran_ns.sum() / max(computed_ns.sum(), 1))


def _during(segments: Segments | None, cause: Cause, runs_by_cpu: Sequence[Intervals]) -> tuple[Ints, Ints]:
    """Return how long each segment of a cause is, and how long threads of the tree ran in it, on all CPUs together."""
    if segments is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    mine = segments.cause == cause
    start_ns, end_ns = segments.start_ns[mine], segments.end_ns[mine]
    ran_ns = np.zeros(len(start_ns), np.int64)
    for runs in runs_by_cpu:
        ran_ns += covered_ns(runs, start_ns, end_ns)
    return end_ns - start_ns, ran_ns


def _fault_cost_ns(trace: Trace) -> int:
    """Return the fast end of what faults on anonymous memory cost in this recording: the 10th percentile by fold."""
    events = trace.events
    rows = np.flatnonzero((events.kind == EventKind.FOLD) & (events.flags == FoldClass.ANON_FAULT) & (events.count > 0))
    return int(np.percentile(events.work_ns[rows] // events.count[rows], 10)) if len(rows) else 0


def _compiled(trace: Trace, window: WindowReport, file_reads: ByStart) -> tuple[int, int, int]:
    """Return what compiling modules cost the path, how many, and how many of them had a compiled file that did not fit.

    Of each, no more than what its import had on the path: several threads may import at once.
    """
    segments, events = window.segments, trace.events
    if segments is None:
        return 0, 0, 0
    mine = np.flatnonzero((segments.cause == Cause.IMPORT) & (segments.event != NO_EVENT))
    is_import = events.kind[segments.event[mine]] == EventKind.IMPORT
    mine = mine[is_import & (events.detail[segments.event[mine]] > 0)]
    if not len(mine):
        return 0, 0, 0
    rows, of_row = distinct_rows(segments.event[mine])
    on_path_ns = np.bincount(of_row, segments.dur_ns[mine]).astype(np.int64)
    compiled_ns = int(np.minimum(events.detail[rows], on_path_ns).sum())
    return compiled_ns, len(rows), _n_misfits(trace, rows, file_reads.meeting(window.start_ns, window.end_ns))


def _n_misfits(trace: Trace, compiled: Ints, reads: Ints) -> int:
    """Return how many of the imports that compiled their source had read a compiled file of their own module."""
    events = trace.events
    name_of = {name: trace.strings[name] for name in distinct_rows(events.name[compiled])[0].tolist()}
    modules = _modules_by_file(trace, distinct_rows(events.file[reads])[0].tolist(), set(name_of.values()))
    reads_by_thread_and_module: dict[tuple[int, str], list[int]] = defaultdict(list)
    for read in reads[np.isin(events.file[reads], list(modules))].tolist():
        for name in modules[int(events.file[read])]:
            reads_by_thread_and_module[int(events.track[read]), name].append(read)
    return sum(
        any(
            events.start_ns[row] < events.end_ns[read] and events.start_ns[read] < events.end_ns[row]
            for read in reads_by_thread_and_module.get((int(events.track[row]), name_of[int(events.name[row])]), ())
        )
        for row in compiled.tolist()
    )


def _modules_by_file(trace: Trace, files: Sequence[int], imported: set[str]) -> dict[int, set[str]]:
    """Return which of the imported modules each compiled file may be of; only of files that are of any."""
    found, last_names = {}, {name.rpartition(".")[2] for name in imported}
    for file in files:
        path = trace.strings[file]
        if path.endswith(".pyc"):
            parts = _module_parts(path)
            # Most files are of no module, which the last part of their names alone tells.
            if parts[-1] in last_names and (names := imported.intersection(_module_names(parts))):
                found[file] = names
    return found


def _module_parts(path: str) -> list[str]:
    """Return a compiled file's module, and the directories that it is in, the innermost last."""
    directory, _, name = path.rpartition("/")
    module = f"{directory.removesuffix('/__pycache__')}/{name.split('.')[0]}".removesuffix("/__init__")
    return module.split("/")


def _module_names(parts: Sequence[str]) -> list[str]:
    """Return what a module may be called: nobody recorded where its packages begin."""
    return [".".join(parts[start:]) for start in range(max(len(parts) - _DEEPEST, 0), len(parts))]
