"""Synthetic traces built from a planned answer: the plan says which cause has which time, the builder lays it out.

A plan is a list of acts of one thread of control that moves between threads; the builder keeps the truth beside the
events. Decoys are threads and events that are not on the path and must not matter.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from slmtrace.capture.layout import FAULT_FILE, FAULT_MAJOR, FoldClass
from slmtrace.model.events import SYSCALL_ON_GIL, EventKind, Events, concatenate_events, make_events, merge_events
from slmtrace.model.quality import Quality
from slmtrace.model.sched import Out, Sched, WakeContext
from slmtrace.model.strings import Strings
from slmtrace.model.taxonomy import Cause, WindowKind
from slmtrace.model.trace import Trace, Window
from slmtrace.model.tracks import NO_TRACK, Tracks

START_NS = 1_000_000

# What a thread can be seen doing on a CPU: cause -> the event that shows it.
SHOWN = {
    Cause.ANON_FAULT: {"kind": EventKind.FAULT, "flags": 0},
    Cause.FILE_MINOR_FAULT: {"kind": EventKind.FAULT, "flags": FAULT_FILE},
    Cause.MAJOR_FAULT: {"kind": EventKind.FAULT, "flags": FAULT_FILE | FAULT_MAJOR},
    Cause.FILE_READ_COPY: {"kind": EventKind.SYSCALL, "name": "pread64"},
    Cause.MMAP_CALL: {"kind": EventKind.SYSCALL, "name": "mmap"},
    Cause.OPEN_STAT: {"kind": EventKind.SYSCALL, "name": "openat"},
    Cause.COMPACTION: {"kind": EventKind.COMPACTION},
    Cause.MALLOC_SLOW: {"kind": EventKind.MALLOC, "name": "malloc"},
    Cause.IMPORT: {"kind": EventKind.IMPORT, "name": "torch"},
}
FOLDED = {
    Cause.ANON_FAULT: FoldClass.ANON_FAULT,
    Cause.FILE_MINOR_FAULT: FoldClass.FILE_FAULT,
    Cause.FILE_READ_COPY: FoldClass.READ,
    Cause.OPEN_STAT: FoldClass.OPEN_STAT,
}


@dataclass(frozen=True)
class Act:
    """One thing that happens: `what` with its times; `cause` where it has a choice."""

    what: str
    dur_ns: int
    cause: Cause = Cause.PYTHON
    extra_ns: int = 1


durations = st.integers(1, 1_000_000)
acts = st.one_of(
    st.builds(Act, st.just("run"), durations),
    st.builds(Act, st.just("show"), durations, st.sampled_from(sorted(SHOWN)), durations),
    st.builds(Act, st.just("fold"), durations, st.sampled_from(sorted(FOLDED)), durations),
    st.builds(Act, st.just("io_wait"), durations, st.just(Cause.READAHEAD_WAIT), durations),
    st.builds(Act, st.just("preempted"), durations),
    st.builds(Act, st.just("timer"), durations, st.just(Cause.LOCK_WAIT), durations),
    st.builds(Act, st.just("gil"), durations, st.just(Cause.GIL_WAIT), durations),
    st.builds(Act, st.just("outside"), durations, st.just(Cause.EXTERNAL), durations),
    st.builds(Act, st.just("hand_over"), durations, st.just(Cause.RUN_QUEUE), durations),
    st.builds(Act, st.just("hand_back"), durations, st.just(Cause.RUN_QUEUE), durations),
    st.builds(Act, st.just("fork"), durations, st.just(Cause.PROCESS_SPAWN), durations),
)
plans = st.lists(acts, min_size=1, max_size=30)
decoys = st.lists(st.tuples(st.integers(-2_000_000, 8_000_000), durations, st.sampled_from(sorted(SHOWN))), max_size=6)


@dataclass
class Planned:
    """A trace, its window and the truth about it."""

    trace: Trace
    window: Window
    by_cause: Counter[Cause]


@dataclass
class Builder:
    """Lays acts end to end. One run of the present thread is always open."""

    offset_ns: int = 0
    truth: Counter[Cause] = field(default_factory=Counter)
    events: list[Events] = field(default_factory=list)
    runs: list[tuple[int, int, int, Out]] = field(default_factory=list)
    wakes: list[tuple[int, int, int, WakeContext]] = field(default_factory=list)
    forks: list[tuple[int, int, int]] = field(default_factory=list)
    sleeping: list[int] = field(default_factory=list)  # threads that wait to be handed control back
    asleep_since: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tracks, self.strings = Tracks(), Strings()
        self.now = START_NS + self.offset_ns
        self.main = self.tracks.thread(100, 100)
        self.track, self.opened = self.main, self.now
        self.run(Act("run", 1))

    def act(self, act: Act) -> None:
        """Lay one act."""
        getattr(self, act.what)(act)

    def run(self, act: Act) -> None:
        self.truth[Cause.PYTHON] += act.dur_ns
        self.now += act.dur_ns

    def show(self, act: Act) -> None:
        columns = dict(SHOWN[act.cause])
        if "name" in columns:
            columns["name"] = self.strings.intern(str(columns["name"]))
        self.event(self.now, self.now + act.dur_ns, **columns)
        self.truth[act.cause] += act.dur_ns
        self.now += act.dur_ns
        self.run(Act("run", act.extra_ns))

    def fold(self, act: Act) -> None:
        """Fold `dur_ns` of work into a stretch that is `extra_ns` longer."""
        end = self.now + act.dur_ns + act.extra_ns
        self.event(self.now, end, kind=EventKind.FOLD, flags=FOLDED[act.cause], work_ns=act.dur_ns, count=3)
        self.truth[act.cause] += act.dur_ns
        self.truth[Cause.PYTHON] += act.extra_ns
        self.now = end

    def io_wait(self, act: Act) -> None:
        """A fault on a file mapping that sleeps for the device, then waits for a CPU, inside one event."""
        self.event(self.now, self.now + 2 + act.dur_ns + act.extra_ns, kind=EventKind.FAULT, flags=FAULT_FILE)
        self.truth[Cause.FILE_MINOR_FAULT] += 2
        self.now += 1
        self.sleep(Out.IOWAIT, act, NO_TRACK, WakeContext.BLOCK, Cause.READAHEAD_WAIT)
        self.now += 1

    def gil(self, act: Act) -> None:
        """Wait for the interpreter's lock, which another thread of the tree held and gave up."""
        holder = self.tracks.thread(1000 + len(self.tracks), 100)
        dur_ns = 2 + act.dur_ns + act.extra_ns
        self.runs.append((holder, self.now - 1, self.now + dur_ns, Out.SLEEP))
        futex = self.strings.intern("futex")
        self.event(self.now, self.now + dur_ns, kind=EventKind.SYSCALL, flags=SYSCALL_ON_GIL, name=futex)
        self.truth[Cause.GIL_WAIT] += 2
        self.now += 1
        self.sleep(Out.SLEEP, act, holder, WakeContext.TASK, Cause.GIL_WAIT)
        self.now += 1

    def preempted(self, act: Act) -> None:
        self.run(Act("run", 1))
        self.close(Out.PREEMPTED)
        self.truth[Cause.RUN_QUEUE] += act.dur_ns
        self.now += act.dur_ns
        self.open(self.track)

    def timer(self, act: Act) -> None:
        self.run(Act("run", 1))
        self.sleep(Out.SLEEP, act, NO_TRACK, WakeContext.TIMER, Cause.LOCK_WAIT)

    def outside(self, act: Act) -> None:
        self.run(Act("run", 1))
        self.sleep(Out.SLEEP, act, NO_TRACK, WakeContext.TASK, Cause.EXTERNAL)

    def hand_over(self, act: Act) -> None:
        """Wake a helper that has slept since before, and sleep until it hands back."""
        helper = self.tracks.thread(1000 + len(self.tracks), 100)
        self.runs.append((helper, START_NS + self.offset_ns - 20_000, START_NS + self.offset_ns - 10_000, Out.SLEEP))
        self.switch_to(helper, act)

    def hand_back(self, act: Act) -> None:
        """Wake the thread that waits longest in the chain of hand-overs, and leave the present one asleep."""
        if self.sleeping:
            self.switch_to(self.sleeping.pop(), act, wait_for_return=False)

    def fork(self, act: Act) -> None:
        """Start a thread that goes on with the work, and sleep until it hands back."""
        self.run(Act("run", 1))
        child = self.tracks.thread(1000 + len(self.tracks), 100)
        self.forks.append((child, self.now, self.track))
        self.leave()
        self.truth[Cause.PROCESS_SPAWN] += act.dur_ns
        self.now += act.dur_ns
        self.open(child)

    def switch_to(self, track: int, act: Act, wait_for_return: bool = True) -> None:
        self.run(Act("run", 1))
        self.wakes.append((track, self.now, self.track, WakeContext.TASK))
        self.leave(wait_for_return)
        self.truth[Cause.RUN_QUEUE] += act.dur_ns
        self.now += act.dur_ns
        self.open(track)

    def leave(self, wait_for_return: bool = True) -> None:
        """Put the present thread to sleep a little after now, while control goes on elsewhere."""
        self.runs.append((self.track, self.opened, self.now + 1, Out.SLEEP))
        if wait_for_return:
            self.sleeping.append(self.track)

    def sleep(self, out: Out, act: Act, by: int, context: WakeContext, cause: Cause) -> None:
        self.close(out)
        self.truth[cause] += act.dur_ns
        self.wakes.append((self.track, self.now + act.dur_ns, by, context))
        self.truth[Cause.RUN_QUEUE] += act.extra_ns
        self.now += act.dur_ns + act.extra_ns
        self.open(self.track)

    def open(self, track: int) -> None:
        self.track, self.opened = track, self.now

    def close(self, out: Out) -> None:
        self.runs.append((self.track, self.opened, self.now, out))

    def event(self, start_ns: int, end_ns: int, **columns: object) -> None:
        self.events.append(make_events(1, start_ns=start_ns, end_ns=end_ns, track=self.track, **columns))

    def decoy(self, at_ns: int, dur_ns: int, cause: Cause) -> None:
        """Let an unrelated thread of the tree run and show something."""
        track = self.tracks.thread(5000 + len(self.tracks), 200)
        start = START_NS + self.offset_ns + at_ns
        self.runs.append((track, start, start + dur_ns, Out.SLEEP))
        columns = dict(SHOWN[cause])
        columns.pop("name", None)
        self.events.append(make_events(1, start_ns=start, end_ns=start + dur_ns, track=track, **columns))

    def build(self, order: np.random.Generator | None = None) -> Planned:
        """Close the last run and make the trace; `order` shuffles the event rows before they are sorted."""
        self.runs.append((self.track, self.opened, self.now + 1, Out.OPEN))
        window = Window(WindowKind.LOAD, 0, START_NS + self.offset_ns, self.now, self.track)
        events = concatenate_events(self.events)
        if order is not None:
            events = events.take(order.permutation(len(events)))
        sched = make_sched(self.runs, self.wakes, self.forks, self.now + 10_000_000)
        trace = Trace({}, merge_events([events]), self.tracks, self.strings, sched, [], [], [], Quality())
        return Planned(trace, window, Counter({cause: ns for cause, ns in self.truth.items() if ns}))


def make_sched(
    runs: list[tuple[int, int, int, Out]],
    wakes: list[tuple[int, int, int, WakeContext]],
    forks: list[tuple[int, int, int]],
    end_ns: int,
) -> Sched:
    """Make scheduler tables of rows in any order."""
    run = np.array(sorted(runs), np.int64).reshape(-1, 4)
    wake = np.array(sorted(wakes), np.int64).reshape(-1, 4)
    fork = np.array(sorted(forks), np.int64).reshape(-1, 3)
    return Sched(
        start_ns=0,
        end_ns=end_ns,
        run_track=run[:, 0].astype(np.int32),
        run_start_ns=run[:, 1].copy(),
        run_end_ns=run[:, 2].copy(),
        run_cpu=np.zeros(len(run), np.int32),
        run_out=run[:, 3].astype(np.uint8),
        wake_track=wake[:, 0].astype(np.int32),
        wake_ns=wake[:, 1].copy(),
        wake_by=wake[:, 2].astype(np.int32),
        wake_context=wake[:, 3].astype(np.uint8),
        fork_track=fork[:, 0].astype(np.int32),
        fork_ns=fork[:, 1].copy(),
        fork_by=fork[:, 2].astype(np.int32),
    )


def build(
    plan: list[Act],
    decoy_list: list[tuple[int, int, Cause]] | None = None,
    offset_ns: int = 0,
    order: np.random.Generator | None = None,
) -> Planned:
    """Build a planned trace."""
    builder = Builder(offset_ns)
    for act in plan:
        builder.act(act)
    for at_ns, dur_ns, cause in decoy_list or []:
        builder.decoy(at_ns, dur_ns, cause)
    return builder.build(order)
