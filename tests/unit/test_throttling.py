"""Waits for the cgroup's quota, told from waits for a CPU that others had."""

from __future__ import annotations

import numpy as np
import pytest

from slmtrace.attribute.attribution import attribute
from slmtrace.model.sched import Out
from slmtrace.model.taxonomy import Cause, WindowKind
from slmtrace.model.trace import CounterSeries, Window

from ..support.builders import TraceBuilder

MS = 1_000_000
START_NS, RUNNABLE_NS, BACK_NS, END_NS = 1_000 * MS, 1_040 * MS, 1_100 * MS, 1_140 * MS


def waited(grown_ms: float, seen_ns: int = BACK_NS + 20 * MS) -> TraceBuilder:
    """Make a thread that lost its CPU for 60 ms, and an account of throttling that grew so much."""
    builder = TraceBuilder()
    thread = builder.thread(1, 1)
    builder.run(thread, START_NS, RUNNABLE_NS, cpu=1, out=Out.PREEMPTED)
    builder.run(thread, BACK_NS, END_NS, cpu=1)
    ts_ns = np.array([START_NS - 500 * MS, seen_ns], np.int64)
    total_us = np.array([7_000_000, 7_000_000 + round(grown_ms * 1_000)], np.int64)
    builder.counters.append(CounterSeries("cgroup throttled", "us", ts_ns, total_us))
    return builder


def ns_by_cause(builder: TraceBuilder) -> dict[Cause, int]:
    report = attribute(builder.build(), [Window(WindowKind.LOAD, 0, START_NS, END_NS, 0)])[0]
    return {share.cause: share.ns for share in report.causes}


def test_a_wait_that_the_account_shows_was_for_the_quota() -> None:
    causes = ns_by_cause(waited(grown_ms=59.5))

    assert causes[Cause.CPU_THROTTLED] == BACK_NS - RUNNABLE_NS
    assert Cause.RUN_QUEUE not in causes


@pytest.mark.parametrize(
    ("grown_ms", "seen_ns"),
    [
        (0.0, BACK_NS + 20 * MS),
        (10.0, BACK_NS + 20 * MS),
        (60.0, BACK_NS + 150 * MS),  # later throttling
        (60.0, START_NS - 10 * MS),  # earlier throttling
    ],
)
def test_a_wait_that_the_account_does_not_show_was_for_others(grown_ms: float, seen_ns: int) -> None:
    causes = ns_by_cause(waited(grown_ms, seen_ns))

    assert causes[Cause.RUN_QUEUE] == BACK_NS - RUNNABLE_NS
    assert Cause.CPU_THROTTLED not in causes


def test_a_wait_while_another_thread_of_the_tree_had_the_cpu_was_for_that_one() -> None:
    builder = waited(grown_ms=59.5)
    builder.run(builder.thread(2, 2), RUNNABLE_NS, BACK_NS, cpu=1)

    assert ns_by_cause(builder)[Cause.RUN_QUEUE] == BACK_NS - RUNNABLE_NS


def test_another_thread_on_another_cpu_says_nothing() -> None:
    builder = waited(grown_ms=59.5)
    builder.run(builder.thread(2, 2), START_NS, END_NS, cpu=0)

    assert ns_by_cause(builder)[Cause.CPU_THROTTLED] == BACK_NS - RUNNABLE_NS


def test_without_an_account_nothing_is_throttled() -> None:
    builder = waited(grown_ms=59.5)
    builder.counters.clear()

    assert ns_by_cause(builder)[Cause.RUN_QUEUE] == BACK_NS - RUNNABLE_NS
