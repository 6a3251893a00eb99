"""Modules that a process imports although those above it had: multiprocessing started its Python anew.

A forked process has its parent's modules. One that is spawned starts with an empty interpreter, and one of a fork
server with that server's (https://docs.python.org/3/library/multiprocessing.html, "Contexts and start methods").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..attribute.timeline import nest
from ..model.events import NO_EVENT, EventKind, Ints, distinct_rows
from ..model.quality import Quality
from ..model.report import WindowReport
from ..model.taxonomy import Cause, Stage
from ..model.trace import Trace

# What the interpreters of spawned processes and of fork servers import first, outside all other imports: their command
# is `from multiprocessing.spawn import spawn_main`, or the like (multiprocessing/spawn.py and forkserver.py).
_STARTERS = ("multiprocessing.spawn", "multiprocessing.forkserver")

# What an import is made of once its files are in memory, as they are the second time.
IMPORTING = (
    Cause.IMPORT,
    Cause.ANON_FAULT,
    Cause.OPEN_STAT,
    Cause.MMAP_CALL,
    Cause.FILE_READ_COPY,
    Cause.FILE_MINOR_FAULT,
    Cause.OTHER_SYSCALL,
)


@dataclass(frozen=True, slots=True)
class ImportedAgain:
    """What a window's path spent in imports of modules that the processes above had imported already."""

    ns_by_cause: Mapping[Cause, int] = field(default_factory=dict)
    ns_by_package: Mapping[str, int] = field(default_factory=dict)
    processes: tuple[str, ...] = ()  # that imported them again, by their pids


def modules_known_above(trace: Trace) -> dict[int, set[int]]:
    """Return the modules (string ids) that the processes above had imported, by the pid of each that got none of them.

    Those are what multiprocessing started: what was forked has them, and another program is another program.
    """
    rows = trace.events.of_kind(EventKind.IMPORT)
    spawned, servers = (_started_by(trace, rows, starter) for starter in _STARTERS)
    if not spawned and not servers:
        return {}
    pids, parents = trace.tracks.pids()[trace.events.track[rows]], _parents(trace)
    known_by_pid = {}
    for pid in parents:
        if pid in spawned or pid in servers or parents[pid][0] in servers:
            known_by_pid[pid] = set[int]()
            for parent, until_ns in _line(pid, parents):
                before = rows[(pids == parent) & (trace.events.end_ns[rows] <= until_ns)]
                known_by_pid[pid].update(trace.events.name[before].tolist())
    return known_by_pid


def imported_again(trace: Trace, window: WindowReport, known_by_pid: Mapping[int, set[int]]) -> ImportedAgain:
    """Return what the path of a window spent in a second import of modules, where importing is its stage."""
    segments = window.segments
    if segments is None or not known_by_pid:
        return ImportedAgain()
    pids = trace.tracks.pids()
    ns_by_cause: dict[Cause, int] = defaultdict(int)
    ns_by_package: dict[str, int] = defaultdict(int)
    again = set()
    is_import = (segments.stage == Stage.IMPORT) & np.isin(segments.cause, IMPORTING)
    for track in distinct_rows(segments.track[is_import])[0].tolist():
        pid = int(pids[track])
        if pid not in known_by_pid:
            continue
        mine = np.flatnonzero((segments.track == track) & is_import)
        innermost = _innermost_imports(trace, track, segments.start_ns[mine])
        names = np.where(innermost == NO_EVENT, -1, trace.events.name[innermost])
        is_again = np.isin(names, list(known_by_pid[pid]))
        columns = names[is_again], segments.cause[mine[is_again]], segments.dur_ns[mine[is_again]]
        for name, cause, ns in zip(*(column.tolist() for column in columns), strict=True):
            ns_by_cause[Cause(cause)] += ns
            ns_by_package[trace.strings[name].partition(".")[0]] += ns
            again.add((pid, trace.tracks[track].process or f"process {pid}"))
    return ImportedAgain(dict(ns_by_cause), dict(ns_by_package), tuple(name for _, name in sorted(again)))


def _innermost_imports(trace: Trace, track: int, ts_ns: Ints) -> Ints:
    """Return the innermost import of a thread at each of sorted instants, NO_EVENT where there is none.

    Events that cross one another were counted when the path was found.
    """
    rows = trace.rows_of_track(track)
    rows = rows[trace.events.kind[rows] == EventKind.IMPORT]
    return nest(trace.events.start_ns[rows], trace.events.end_ns[rows], rows, Quality()).at(ts_ns)


def _started_by(trace: Trace, imports: Ints, starter: str) -> set[int]:
    """Return the processes that imported this module outside all other imports."""
    events, pids = trace.events, trace.tracks.pids()
    started = set()
    for row in imports[events.name[imports] == trace.strings.intern(starter)].tolist():
        others = imports[events.track[imports] == events.track[row]]
        is_around = (events.start_ns[others] <= events.start_ns[row]) & (events.end_ns[others] >= events.end_ns[row])
        if is_around.sum() == 1:  # itself
            started.add(int(pids[events.track[row]]))
    return started


def _parents(trace: Trace) -> dict[int, tuple[int, int]]:
    """Return the parent of each process that was seen to start, and when it did."""
    sched, pids = trace.sched, trace.tracks.pids()
    columns = pids[sched.fork_track], pids[sched.fork_by], sched.fork_ns
    forks = zip(*(column.tolist() for column in columns), strict=True)
    first: dict[int, tuple[int, int]] = {}
    for pid, parent, ts_ns in sorted(forks, key=lambda fork: fork[2]):
        if pid != parent:
            first.setdefault(pid, (parent, ts_ns))
    return first


def _line(pid: int, parents: Mapping[int, tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the processes above one, and when each started the next of them; none twice, whatever the records say."""
    line: dict[int, int] = {}
    while pid in parents and parents[pid][0] not in line:
        pid, started_ns = parents[pid]
        line[pid] = started_ns
    return list(line.items())
