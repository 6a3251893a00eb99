"""The critical path: from the end of a window backwards, always on the thread that held it up.

Method: the backward walk over runs, wakeups and forks of off-CPU analysis (Perfetto's thread_executing_span, wPerf). At
time t on thread T: running is T's own time; before a switch-in, T was runnable since its wakeup; before the wakeup, the
waker is followed if it is a task of the traced tree, else T waited for what its evidence shows. Whoever held a lock
that is nobody's message (the interpreter's) is not followed: the wait for it is T's own time, but for what stalled the
holder in the kernel while it had the lock. A thread that never ran before was forked: its parent is followed. A thread
that spun was held up by that thread of its process which had been busy longest: what that one did meanwhile is what was
waited for. A thread that polled shared memory for a message was held up by its sender: back to the sending, the time is
the poller's, and before it the sender's. A waker that had been idle itself is on the path for no longer than others
waited for it: before, the path is theirs. Every step goes back in time, or hops at most once to each thread at one
instant, so the walk ends on any input. Chains of plain hops (hops.py) are passed without a look at all that.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..capture.layout import SPIN_PERIOD_NS
from ..model.events import Ints, SmallInts, span_of
from ..model.sched import Out, Sched, WakeContext
from ..model.trace import Window
from ..model.tracks import NO_TRACK
from .hops import FOLLOWED, find_hops
from .locks import SAME_WAIT_NS, Locks
from .messages import Messages
from .rules import State

# The waker's record and the sleeper's switch-out come from two CPUs: the wakeup may be stamped this much earlier.
_RACE_NS = 2_000

# Waits that no work in the tree ends.
_IDLE = (State.TIMER_WAIT, State.OUTSIDE_WAIT, State.UNKNOWN_WAIT)
# How a thread leaves a CPU without waiting for another one.
_STALLED = (Out.PREEMPTED, Out.IOWAIT, Out.DISK)
# How many of the threads that the path came from are remembered.
_MAX_WAITERS = 64


@dataclass(frozen=True, slots=True)
class Steps:
    """Stretches of time as columns. `anchor` is the thread whose stage counts where `track` has none of its own."""

    start_ns: Ints
    end_ns: Ints
    track: Ints
    anchor: Ints
    state: Ints  # State

    def __len__(self) -> int:
        return len(self.start_ns)

    def where(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Steps:
        """Return the steps of these rows."""
        columns = (self.start_ns, self.end_ns, self.track, self.anchor, self.state)
        return Steps(*(column[rows] for column in columns))


@dataclass(slots=True)
class _Thread:
    """One thread's scheduler records, as views: reading single values of those beats numpy."""

    first_run: int  # its row in the scheduler's table
    run_start: memoryview
    run_end: memoryview
    run_out: memoryview
    wake_ns: memoryview
    wake_by: memoryview
    wake_context: memoryview
    fork_ns: int | None = None
    fork_by: int = NO_TRACK

    def wanted_ns(self, run: int, ts_ns: int) -> int:
        """Return since when it has wanted a CPU, after run `run` (-1: before all); `ts_ns` if it does not."""
        if run < 0:
            return ts_ns if self.fork_ns is None else min(self.fork_ns, ts_ns)
        left_ns = self.run_end[run]
        if self.run_out[run] == Out.PREEMPTED:
            return left_ns
        wake = bisect_right(self.wake_ns, ts_ns) - 1
        return max(self.wake_ns[wake], left_ns) if wake >= 0 and self.wake_ns[wake] >= left_ns - _RACE_NS else ts_ns


class Threads:
    """The scheduler evidence of each thread, indexed when first asked for."""

    def __init__(
        self,
        sched: Sched,
        messages: Messages | None = None,
        locks: Locks | None = None,
        process_by_track: Sequence[int] = (),
    ) -> None:
        self._sched = sched
        self.messages = messages or Messages()
        self.locks = locks or Locks()
        self._process_by_track = process_by_track
        self._tracks_by_process: dict[int, list[int]] = defaultdict(list)
        self._threads: dict[int, _Thread] = {}
        self.hops = find_hops(sched, self.messages, self.locks)
        self.start_ns = sched.start_ns
        self.end_ns = sched.end_ns

    def __getitem__(self, track: int) -> _Thread:
        if track not in self._threads:
            self._threads[track] = self._index(track)
        return self._threads[track]

    def is_awake(self, track: int, ts_ns: int) -> bool:
        """Say whether a thread ran just before an instant, or wanted to."""
        thread = self[track]
        run = bisect_left(thread.run_start, ts_ns) - 1
        return run >= 0 and (thread.run_end[run] >= ts_ns or thread.run_out[run] == Out.PREEMPTED)

    def last_wakeup(self, track: int, ts_ns: int) -> tuple[int, int]:
        """Return who woke a thread last, NO_TRACK if it was none of the tree, and when."""
        wake = bisect_right(self[track].wake_ns, ts_ns) - 1 if track != NO_TRACK else -1
        return (self[track].wake_by[wake], self[track].wake_ns[wake]) if wake >= 0 else (NO_TRACK, ts_ns)

    def busiest_beside(self, track: int, since_ns: int, ts_ns: int) -> tuple[int, int]:
        """Return which other thread of the process has been busy longest at an instant, and since when, at most.

        Busy is who neither slept nor spun: on a CPU, in the queue for one, or stalled in the kernel. NO_TRACK: nobody.
        """
        busy = [(self._busy_since(other, since_ns, ts_ns), other) for other in self._beside(track)]
        busy_ns, other = min(busy, default=(ts_ns, NO_TRACK))
        return (other, busy_ns) if busy_ns < ts_ns else (NO_TRACK, ts_ns)

    def last_beside(self, track: int, ts_ns: int) -> tuple[int, int]:
        """Return which other thread of the process ran last before an instant, and until when; (NO_TRACK, 0): none."""
        found = NO_TRACK, 0
        for other in self._beside(track):
            run = bisect_left(self[other].run_start, ts_ns) - 1
            if run >= 0 and self[other].run_end[run] > found[1]:
                found = other, min(self[other].run_end[run], ts_ns)
        return found

    def waits_since(self, track: int, slept_ns: int) -> int:
        """Return since when a thread waited that slept then: many a loop spins for a while first."""
        start_ns, end_ns = self.locks.spins.last(track, slept_ns)
        return start_ns if start_ns and slept_ns - end_ns < SPIN_PERIOD_NS else slept_ns

    def idle_since(self, track: int, ts_ns: int) -> tuple[int, State]:
        """Return since when a thread slept, and how, if nobody's work ended that sleep; `ts_ns` if it did not."""
        thread = self[track]
        run = bisect_left(thread.run_start, ts_ns) - 1
        left_ns = thread.run_end[run] if run >= 0 else ts_ns
        wake = bisect_left(thread.wake_ns, left_ns - _RACE_NS)
        if left_ns >= ts_ns or wake == len(thread.wake_ns):
            return ts_ns, State.RUN
        context = WakeContext(thread.wake_context[wake])
        state = _wait_state(thread.run_out[run], context)
        is_work = context in FOLLOWED and thread.wake_by[wake] != NO_TRACK
        return (ts_ns, State.RUN) if is_work or state not in _IDLE else (left_ns, state)

    def _busy_since(self, track: int, since_ns: int, ts_ns: int) -> int:
        thread, busy_ns, is_asleep = self[track], ts_ns, False
        run = bisect_left(thread.run_start, ts_ns) - 1
        while busy_ns > since_ns and not is_asleep:
            if run >= 0 and thread.run_end[run] >= busy_ns:
                busy_ns = thread.run_start[run]
                run -= 1
            elif run >= 0 and thread.run_out[run] in _STALLED:
                busy_ns = thread.run_end[run]
            else:
                busy_ns, is_asleep = thread.wanted_ns(run, busy_ns), True
        return max(busy_ns, since_ns, self.locks.spins.last(track, ts_ns)[1])

    def _beside(self, track: int) -> list[int]:
        if not self._tracks_by_process:
            for row, process in enumerate(self._process_by_track):
                self._tracks_by_process[process].append(row)
        is_known = 0 <= track < len(self._process_by_track)
        beside = self._tracks_by_process[self._process_by_track[track]] if is_known else []
        return [other for other in beside if other != track]

    def share_a_process(self, track: int, other: int) -> bool:
        """Say whether two threads are of one process."""
        processes = self._process_by_track
        return max(track, other) < len(processes) and processes[track] == processes[other]

    def _index(self, track: int) -> _Thread:
        sched = self._sched
        low, high = span_of(sched.run_track, track)
        first, last = span_of(sched.wake_track, track)
        thread = _Thread(
            low,
            sched.run_start_ns[low:high].data,
            sched.run_end_ns[low:high].data,
            sched.run_out[low:high].data,
            sched.wake_ns[first:last].data,
            sched.wake_by[first:last].data,
            sched.wake_context[first:last].data,
        )
        fork = int(np.searchsorted(sched.fork_track, track))
        if fork < len(sched.fork_track) and sched.fork_track[fork] == track:
            thread.fork_ns, thread.fork_by = int(sched.fork_ns[fork]), int(sched.fork_by[fork])
        return thread


@dataclass(slots=True)
class _Walk:
    """Where the walk is, and what it has found, last step first."""

    window: Window
    ts_ns: int
    track: int
    anchor: int
    steps: array[int] = field(default_factory=lambda: array("q"))  # the columns of Steps, step by step
    hopped: set[int] = field(default_factory=set)  # threads visited at this very instant
    entries: Mapping[int, int] = field(default_factory=dict)  # time -> track: where the request's own way goes on
    floor_ns: int = 0  # where the path may turn, by a message of the present thread or an entry
    held: tuple[int, int, int] = (NO_TRACK, 0, NO_TRACK)  # the last wait for a lock: who, since when, who held it
    # Whose wakers were followed: the thread, and since when it waited.
    waiters: list[tuple[int, int]] = field(default_factory=list)

    def back_to(self, ts_ns: int, state: State, track: int | None = None) -> bool:
        """Explain the time from `ts_ns` to now as `state` of the present thread (or of `track`), and go there.

        Say whether the walk got there, and has to go on.
        """
        start_ns = max(ts_ns, self.floor_ns, self.window.start_ns)
        if start_ns < self.ts_ns:
            self.steps.extend((start_ns, self.ts_ns, self.track if track is None else track, self.anchor, state))
            self.ts_ns = start_ns
            self.hopped.clear()
        return start_ns == ts_ns and not self.is_done

    def last_entry_ns(self) -> int:
        """Return the latest entry before now, 0 if there is none."""
        return max((ts_ns for ts_ns in self.entries if ts_ns < self.ts_ns), default=0) if self.entries else 0

    @property
    def is_done(self) -> bool:
        """Say whether the whole window is explained."""
        return self.ts_ns <= self.window.start_ns


def critical_path(
    window: Window, threads: Threads, staged: frozenset[int], entries: Mapping[int, int] | None = None
) -> Steps:
    """Explain every nanosecond of the window by a thread and its state.

    `staged` are the threads that have stages of their own, `entries` instants before which another thread is to be
    followed, whatever the path was on. The steps partition the window: sorted, contiguous, summing to its length.
    """
    walk = _Walk(window, window.end_ns, window.track, window.track, entries=entries or {})
    while not walk.is_done:
        _step(walk, threads, staged)
    return Steps(*np.ascontiguousarray(np.frombuffer(walk.steps, np.int64).reshape(-1, 5)[::-1].T))


def _step(walk: _Walk, threads: Threads, staged: frozenset[int]) -> None:
    for track in (threads.messages.sender_at(walk.track, walk.ts_ns), walk.entries.get(walk.ts_ns, NO_TRACK)):
        if _follow(walk, track, staged):
            return
    walk.floor_ns = max(threads.messages.last_turn_ns(walk.track, walk.ts_ns), walk.last_entry_ns())
    thread = threads[walk.track]
    run = bisect_left(thread.run_start, walk.ts_ns) - 1
    if walk.ts_ns > threads.end_ns:
        walk.back_to(threads.end_ns, State.NO_SCHED)
    elif walk.ts_ns <= threads.start_ns:
        walk.back_to(walk.window.start_ns, State.NO_SCHED)
    elif run < 0:
        _before_first_run(walk, thread, threads, staged)
    elif thread.run_end[run] >= walk.ts_ns:
        if not _along_hops(walk, thread.first_run + run, threads, staged):
            _through_run(walk, thread.run_start[run], threads)
    elif thread.run_out[run] == Out.PREEMPTED:
        walk.back_to(thread.run_end[run], State.RUNNABLE)
    elif thread.run_out[run] == Out.EXIT:
        _after_exit(walk, thread.run_end[run], threads)
    elif thread.run_out[run] == Out.OPEN:
        walk.back_to(thread.run_end[run], State.NO_SCHED)
    else:
        _before_switch_in(walk, thread, run, threads, staged)


def _along_hops(walk: _Walk, run: int, threads: Threads, staged: frozenset[int]) -> bool:
    """Go back through a run to its wakeup and on along the waker, as long as hops are plain; say whether any was."""
    hops = threads.hops
    passed, run = hops.chain(run, max(walk.floor_ns, walk.window.start_ns, threads.start_ns))
    if not len(passed):
        return False
    track, start_ns, woken_ns = hops.tracks[passed], hops.starts_ns[passed], hops.woken_ns[passed]
    anchor = _anchors(walk.anchor, track, staged)
    steps = np.empty((len(passed), 2, 5), np.int64)
    steps[:, 0, 0], steps[:, 0, 1], steps[:, 0, 4] = start_ns, np.append(walk.ts_ns, woken_ns[:-1]), State.RUN
    steps[:, 1, 0], steps[:, 1, 1], steps[:, 1, 4] = woken_ns, start_ns, State.RUNNABLE
    steps[:, :, 2], steps[:, :, 3] = track[:, None], anchor[:-1, None]
    walk.steps.frombytes(steps.tobytes())
    waiters = zip(track[-_MAX_WAITERS:].tolist(), passed[-_MAX_WAITERS:].tolist(), strict=True)
    walk.waiters.extend((waiter, threads.waits_since(waiter, hops.slept_ns(row))) for waiter, row in waiters)
    del walk.waiters[:-_MAX_WAITERS]
    walk.ts_ns, walk.track, walk.anchor = int(woken_ns[-1]), int(hops.tracks[run]), int(anchor[-1])
    walk.hopped = {walk.track}
    return True


def _anchors(anchor: int, tracks: SmallInts, staged: frozenset[int]) -> Ints:
    """Return the anchor before and after each of these threads is left: the last one with stages."""
    anchors = np.append(anchor, tracks).astype(np.int64)
    is_staged = np.append(True, np.isin(tracks, list(staged)))
    return anchors[np.maximum.accumulate(np.where(is_staged, np.arange(len(anchors)), 0))]


def _through_run(walk: _Walk, start_ns: int, threads: Threads) -> None:
    """Go back through a run; where the thread spun, through what the one that it waited for was busy with."""
    for spun_ns, found_ns in reversed(threads.locks.spins.within(walk.track, start_ns, walk.ts_ns)):
        if not walk.back_to(found_ns, State.RUN) or not _through_spin(walk, spun_ns, threads):
            return
    walk.back_to(start_ns, State.RUN)


def _through_spin(walk: _Walk, spun_ns: int, threads: Threads) -> bool:
    """Go back through a spin; say whether the walk has to go on.

    What it waited for is what the busiest thread beside did, and before that the idle sleep which kept that thread, or
    else the anchor, from it. Where nobody was busy or idle, a sample is too little to call it a wait.
    """
    goes_on, other = True, walk.anchor
    while goes_on and walk.ts_ns > spun_ns:
        busiest, busy_ns = threads.busiest_beside(walk.track, spun_ns, walk.ts_ns)
        if busiest != NO_TRACK:
            other = busiest
            goes_on = _through_stall(walk, busy_ns, other, threads[other])
            continue
        slept_ns, state = threads.idle_since(other, walk.ts_ns)
        if slept_ns >= walk.ts_ns:
            break
        goes_on = walk.back_to(max(slept_ns, spun_ns), state, other)
    return goes_on


def _after_exit(walk: _Walk, exit_ns: int, threads: Threads) -> None:
    """Go back to a thread's exit through what its process did since: that ends with its last thread.

    The last one closes the files, and so frees what the process had of a device.
    """
    other, ran_ns = threads.last_beside(walk.track, walk.ts_ns)
    if walk.back_to(max(ran_ns, exit_ns), State.NO_SCHED) and ran_ns > exit_ns:
        _through_stall(walk, exit_ns, other, threads[other])
    walk.back_to(exit_ns, State.NO_SCHED)


def _before_first_run(walk: _Walk, thread: _Thread, threads: Threads, staged: frozenset[int]) -> None:
    """Explain the time before a thread's first run: it was woken, or it was forked, or it was there before us."""
    wake = bisect_right(thread.wake_ns, walk.ts_ns) - 1
    if wake >= 0 and not _was_forked_after(thread, thread.wake_ns[wake]):
        _before_wakeup(walk, thread, wake, threads.start_ns, Out.SLEEP, threads, staged)
    elif thread.fork_ns is not None and thread.fork_ns <= walk.ts_ns:
        if walk.back_to(thread.fork_ns, State.SPAWN) and not _follow(walk, thread.fork_by, staged):
            walk.back_to(walk.window.start_ns, State.NO_SCHED)
    elif not _follow(walk, walk.anchor, staged):
        # A helper without a past has sent the walk back to its anchor; here not even that is left.
        walk.back_to(walk.window.start_ns, State.NO_SCHED)


def _was_forked_after(thread: _Thread, ts_ns: int) -> bool:
    return thread.fork_ns is not None and thread.fork_ns > ts_ns


def _before_switch_in(walk: _Walk, thread: _Thread, run: int, threads: Threads, staged: frozenset[int]) -> None:
    """Explain the wait between the end of run `run` and now."""
    slept_ns, out = thread.run_end[run], Out(thread.run_out[run])
    wake = bisect_right(thread.wake_ns, walk.ts_ns) - 1
    has_wake = wake >= 0 and thread.wake_ns[wake] >= slept_ns - _RACE_NS
    if threads.locks.is_waiting(walk.track, slept_ns):
        woken_ns = max(thread.wake_ns[wake], slept_ns) if has_wake else walk.ts_ns
        if walk.back_to(woken_ns, State.RUNNABLE):
            _before_release(walk, slept_ns, thread.wake_by[wake] if has_wake else NO_TRACK, threads)
    elif not has_wake:
        _sleep(walk, slept_ns, _wait_state(out, None), threads, staged)
    else:
        _before_wakeup(walk, thread, wake, slept_ns, out, threads, staged)


def _before_release(walk: _Walk, slept_ns: int, holder: int, threads: Threads) -> None:
    """Go back through the wait for a lock; what stalled its holder meanwhile is what was waited for.

    A wait that timed out goes on in the next one of the thread, and so does the holding. A holder that had waited
    itself had the lock from whoever woke it, who may wait for it again by the time that the call returns.
    """
    waiter, since_ns, next_holder = walk.held
    if holder == NO_TRACK and waiter == walk.track and since_ns - walk.ts_ns <= SAME_WAIT_NS:
        holder = next_holder
    while walk.ts_ns > slept_ns and holder not in walk.hopped:
        walk.hopped.add(holder)
        waited_ns = threads.locks.waits.last(holder, walk.ts_ns)[1]
        had_ns = min(max(waited_ns, slept_ns), walk.ts_ns)
        for start_ns, end_ns in reversed(threads.locks.stalls.within(holder, had_ns, walk.ts_ns)):
            if not walk.back_to(end_ns, State.HELD_WAIT) or not _through_stall(walk, start_ns, holder, threads[holder]):
                return
        if not walk.back_to(had_ns, State.HELD_WAIT):
            return
        if had_ns > slept_ns:
            holder, woken_ns = threads.last_wakeup(holder, waited_ns)
            if not walk.back_to(max(min(woken_ns, walk.ts_ns), slept_ns), State.HELD_WAIT):
                return
    walk.held = walk.track, slept_ns, holder
    walk.back_to(slept_ns, State.HELD_WAIT)


def _through_stall(walk: _Walk, start_ns: int, holder: int, thread: _Thread) -> bool:
    """Go back through what stalled another thread, on a CPU and off it; say whether the walk has to go on."""
    run = bisect_left(thread.run_start, walk.ts_ns) - 1
    goes_on = True
    while goes_on and walk.ts_ns > start_ns:
        if run >= 0 and thread.run_end[run] >= walk.ts_ns:
            goes_on = walk.back_to(max(thread.run_start[run], start_ns), State.RUN, holder)
            run -= 1
            continue
        wanted_ns = thread.wanted_ns(run, walk.ts_ns)
        goes_on = walk.back_to(max(wanted_ns, start_ns), State.RUNNABLE if run >= 0 else State.SPAWN, holder)
        if goes_on and run >= 0:
            left_ns, state = thread.run_end[run], _wait_state(thread.run_out[run], None)
            goes_on = walk.back_to(max(left_ns, start_ns), state, holder)
        elif run < 0:
            break
    return goes_on


def _before_wakeup(
    walk: _Walk, thread: _Thread, wake: int, slept_ns: int, out: Out, threads: Threads, staged: frozenset[int]
) -> None:
    """Go back to a wakeup, and on: along the waker if it is a task of the tree, else through the sleep."""
    if not walk.back_to(max(thread.wake_ns[wake], slept_ns), State.RUNNABLE) or walk.ts_ns <= slept_ns:
        return
    context = WakeContext(thread.wake_context[wake])
    is_task, waiter = context in FOLLOWED and out is not Out.IOWAIT, walk.track
    if is_task and _follow(walk, thread.wake_by[wake], staged):
        walk.waiters.append((waiter, threads.waits_since(waiter, slept_ns)))
        del walk.waiters[:-_MAX_WAITERS]
    else:
        _sleep(walk, slept_ns, _wait_state(out, context), threads, staged)


def _sleep(walk: _Walk, slept_ns: int, state: State, threads: Threads, staged: frozenset[int]) -> None:
    """Go back through a sleep; out of an idle one, and on with whom it held up, if there is such a thread."""
    row = _held_up(walk, slept_ns, threads, staged) if state in _IDLE else None
    if row is None:
        walk.back_to(slept_ns, state)
        return
    waiter, since_ns = walk.waiters[row]
    if walk.back_to(min(since_ns, walk.ts_ns), state):
        del walk.waiters[row:]
        _follow(walk, waiter, staged)


def _held_up(walk: _Walk, slept_ns: int, threads: Threads, staged: frozenset[int]) -> int | None:
    """Return whose row among the waiters the path leaves an idle sleep for; None: it stays.

    A thread of the same process that did not wait yet was not held up at all: a lock that a background thread let go.
    Any other was held up from when it began to wait. A thread with stages is nobody's background: its sleep is theirs.
    """
    rows = range(len(walk.waiters) - 1, -1, -1)
    for row in rows:
        track, since_ns = walk.waiters[row]
        is_beside = since_ns >= walk.ts_ns and threads.share_a_process(track, walk.track)
        if is_beside and walk.track not in staged and track not in walk.hopped and threads.is_awake(track, walk.ts_ns):
            return row
    return next((row for row in rows if slept_ns < walk.waiters[row][1] < walk.ts_ns), None)


def _follow(walk: _Walk, track: int, staged: frozenset[int]) -> bool:
    """Hop to another thread at this instant; say no if it is unknown or was visited at this instant before."""
    if track in (NO_TRACK, walk.track) or track in walk.hopped:
        return False
    walk.hopped.add(walk.track)
    if walk.track in staged:
        walk.anchor = walk.track
    walk.track = track
    return True


def _wait_state(out: int, context: WakeContext | None) -> State:
    """Name the wait that ended a run, given what ended the wait (None: nobody saw it)."""
    if out == Out.IOWAIT:
        return State.IO_WAIT
    if out == Out.DISK:
        return State.KERNEL_WAIT
    if context is None:
        return State.UNKNOWN_WAIT
    return State.TIMER_WAIT if context is WakeContext.TIMER else State.OUTSIDE_WAIT
