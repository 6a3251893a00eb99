"""Chains of plain hops are a shortcut: the path is the same as without."""

from __future__ import annotations

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from slmtrace.attribute.hops import Hops
from slmtrace.attribute.locks import Locks, Spans
from slmtrace.attribute.messages import Messages
from slmtrace.attribute.path import Threads, critical_path
from slmtrace.model.sched import Out, Sched, WakeContext
from slmtrace.model.taxonomy import WindowKind
from slmtrace.model.trace import Window

from .planned import make_sched

N_THREADS = 4
TURN_NS = 100

# A turn: which thread has it, when it goes, how late it wakes the next, how late that one runs, and what is odd of it.
turns = st.lists(
    st.tuples(
        st.integers(0, N_THREADS - 1),
        st.integers(40, 60),
        st.integers(0, 20),
        st.integers(0, 3),
        st.sampled_from([Out.SLEEP] * 6 + [Out.DISK, Out.IOWAIT, Out.PREEMPTED]),
        st.sampled_from([WakeContext.TASK] * 6 + [WakeContext.NET, WakeContext.TIMER]),
    ),
    min_size=3,
    max_size=12,
)
spans = st.lists(st.tuples(st.integers(0, N_THREADS - 1), st.integers(0, 1200), st.integers(1, 40)), max_size=2)
instants = st.dictionaries(st.integers(0, 1200), st.integers(0, N_THREADS - 1), max_size=2)
threads_with_stages = st.frozensets(st.integers(0, N_THREADS - 1))


def relay(plan: list[tuple[int, int, int, int, Out, WakeContext]]) -> Sched:
    """Let threads run one after the other, each woken by the one before it."""
    runs, wakes = [], []
    starts = [10, *(TURN_NS * number + turn[3] for number, turn in enumerate(plan, start=1))]
    for number, (thread, dur_ns, early_ns, _, out, context) in enumerate(plan):
        begun_ns = starts[number]
        following = plan[(number + 1) % len(plan)][0]
        runs.append((thread, begun_ns, begun_ns + dur_ns, out))
        wakes.append((following, begun_ns + dur_ns - early_ns, thread, context))
    return make_sched(runs, wakes, [], end_ns=TURN_NS * (len(plan) + 1))


def disjoint(stretches: list[tuple[int, int, int]]) -> Spans:
    """Leave out of these (thread, start, length) what begins before the one before it has ended."""
    rows: list[tuple[int, int, int]] = []
    for thread, start_ns, dur_ns in sorted(stretches):
        if not rows or rows[-1][0] != thread or rows[-1][2] <= start_ns:
            rows.append((thread, start_ns, start_ns + dur_ns))
    thread, start_ns, end_ns = np.array(rows, np.int64).reshape(-1, 3).T
    return Spans(thread.astype(np.int32), start_ns.copy(), end_ns.copy())


@settings(max_examples=300, deadline=None)
@given(turns, spans, spans, instants, instants, threads_with_stages)
def test_the_path_is_the_same_without_plain_hops(plan, spun, waited, sent, entries, staged) -> None:  # type: ignore[no-untyped-def]
    sched, messages = relay(plan), Messages()
    locks = Locks(waits=disjoint(waited), spins=disjoint(spun))
    for ts_ns, sender in sent.items():
        messages.add((sender + 1) % N_THREADS, sender, ts_ns, ts_ns + 30)
    window = Window(WindowKind.LOAD, 0, 20, TURN_NS * len(plan) - 45, plan[-1][0])
    threads, stepwise = (Threads(sched, messages, locks, [1] * N_THREADS) for _ in range(2))
    n_hops = sum(target >= 0 for target in threads.hops.target)
    stepwise.hops = Hops(sched, np.full(len(plan), -1, np.int64), np.zeros(len(plan), np.int64))

    found = critical_path(window, threads, staged, entries)

    event("with hops" if n_hops else "without hops")
    expected = critical_path(window, stepwise, staged, entries)
    for column in ("start_ns", "end_ns", "track", "anchor", "state"):
        assert getattr(found, column).tolist() == getattr(expected, column).tolist()
