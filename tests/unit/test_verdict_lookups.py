"""Python's own search for modules, told from other imports by the calls that it makes and the reads that it lacks."""

from __future__ import annotations

from slmtrace.capture.layout import FoldClass
from slmtrace.model.events import NO_EVENT, EventKind
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.verdict.lookups import searched_ns
from tests.support.builders import MS, T0_NS, Piece, TraceBuilder, make_segments, make_window


def searched(*folds: tuple[int, int, int], reads: tuple[int, ...] = (), cause: Cause = Cause.IMPORT) -> int:
    """Return what counts as searched of 100 ms, with lookups in these folds: start and length in ms, and how many."""
    builder = TraceBuilder()
    thread = builder.thread(1, 1)
    other = builder.thread(2, 1)
    for start_ms, length_ms, count in folds:
        at_ns = T0_NS + start_ms * MS
        builder.event(EventKind.FOLD, thread, at_ns, length_ms * MS, flags=FoldClass.OPEN_STAT, count=count, work_ns=MS)
        builder.event(EventKind.FOLD, other, at_ns, 50 * MS, flags=FoldClass.OPEN_STAT, count=count, work_ns=MS)
    for at_ms in reads:
        builder.event(EventKind.SYSCALL, thread, T0_NS + at_ms * MS, MS, "read", file="/site-packages/six.py")
    pieces: list[Piece] = [
        (60 * MS, Stage.IMPORT, cause, thread, NO_EVENT),
        (5 * MS, Stage.IMPORT, Cause.OPEN_STAT, thread, NO_EVENT),
        (35 * MS, Stage.IMPORT, cause, thread, NO_EVENT),
    ]
    trace = builder.build()
    return searched_ns(trace, make_window(WindowKind.LOAD, 0, make_segments(T0_NS, pieces)))


def test_an_import_that_asks_for_one_file_after_the_other_searches() -> None:
    assert searched((10, 20, 300)) == 20 * MS


def test_the_calls_of_a_search_are_counted_elsewhere() -> None:
    assert searched((50, 20, 300)) == 15 * MS


def test_who_reads_what_was_found_is_not_searching() -> None:
    assert searched((10, 20, 300), (40, 20, 300), reads=(25,)) == 20 * MS


def test_a_few_lookups_are_no_search() -> None:
    assert searched((10, 20, 9)) == 0


def test_what_asks_for_files_outside_an_import_is_not_pythons_search() -> None:
    assert searched((10, 20, 300), cause=Cause.PYTHON) == 0
