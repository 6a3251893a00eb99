"""Imports of what the process above had imported: which processes have it not, and what of the path they took."""

from __future__ import annotations

from slmtrace.model.events import NO_EVENT, EventKind
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.verdict.imports import ImportedAgain, imported_again, modules_known_above
from tests.support.builders import MS, T0_NS, Piece, TraceBuilder, make_segments, make_window

ABOVE, CHILD = 100, 200
Imports = tuple[tuple[str, int, int], ...]  # module, start and length in ms


def program(*children: tuple[int, int, int, Imports]) -> TraceBuilder:
    """Build a program that imports torch for 50 ms, and its processes: pid, parent, start in ms, what each imports."""
    builder = TraceBuilder()
    builder.thread(ABOVE, ABOVE)
    for pid, parent, start_ms, imports in ((ABOVE, 1, 0, (("torch", 0, 50), ("late", 70, 10))), *children):
        thread = builder.thread(pid, pid, process=f"process-{pid}")
        builder.run(thread, T0_NS + start_ms * MS, T0_NS + 500 * MS)
        if parent != 1:
            builder.fork(thread, T0_NS + start_ms * MS, by=builder.tracks.find_thread(parent))
        for module, at_ms, length_ms in imports:
            builder.event(EventKind.IMPORT, thread, T0_NS + at_ms * MS, length_ms * MS, module)
    return builder


def modules_known(builder: TraceBuilder) -> dict[int, set[str]]:
    trace = builder.build()
    return {pid: {trace.strings[name] for name in names} for pid, names in modules_known_above(trace).items()}


def test_a_spawned_process_has_nothing_of_what_was_imported_before_its_start() -> None:
    spawned = program((CHILD, ABOVE, 60, (("multiprocessing.spawn", 61, 2), ("torch", 64, 40))))

    assert modules_known(spawned) == {CHILD: {"torch"}}


def test_a_forked_process_has_what_its_parent_has() -> None:
    assert modules_known(program((CHILD, ABOVE, 60, (("json", 61, 2),)))) == {}


def test_another_program_is_not_what_multiprocessing_started() -> None:
    """It imports multiprocessing.spawn as well, as a part of something else."""
    other = program((CHILD, ABOVE, 60, (("torch", 61, 90), ("multiprocessing.spawn", 63, 2))))

    assert modules_known(other) == {}


def test_children_of_a_fork_server_have_what_the_server_imported_alone() -> None:
    server = (CHILD, ABOVE, 60, (("multiprocessing.forkserver", 61, 2),))
    child = (300, CHILD, 90, (("torch", 91, 40),))

    assert modules_known(program(server, child))[300] == {"torch", "multiprocessing.forkserver"}


def test_a_spawned_process_pays_for_modules_of_all_above_it() -> None:
    first = (CHILD, ABOVE, 60, (("multiprocessing.spawn", 61, 2), ("engine", 64, 6)))
    second = (300, CHILD, 90, (("multiprocessing.spawn", 91, 2),))

    assert modules_known(program(first, second))[300] == {"torch", "engine", "multiprocessing.spawn"}


def test_only_the_path_in_imports_that_were_made_above_counts() -> None:
    imports = (("multiprocessing.spawn", 61, 2), ("engine", 64, 60), ("torch", 70, 40))
    builder = program((CHILD, ABOVE, 60, imports))
    trace = builder.build()
    child = trace.tracks.find_thread(CHILD)
    above = trace.tracks.find_thread(ABOVE)
    pieces: list[Piece] = [
        (50 * MS, Stage.IMPORT, Cause.IMPORT, above, NO_EVENT),
        (10 * MS, Stage.IMPORT, Cause.IMPORT, above, NO_EVENT),
        (10 * MS, Stage.IMPORT, Cause.IMPORT, child, NO_EVENT),  # engine itself, which nobody had imported
        (25 * MS, Stage.IMPORT, Cause.IMPORT, child, NO_EVENT),
        (5 * MS, Stage.IMPORT, Cause.ANON_FAULT, child, NO_EVENT),
        (10 * MS, Stage.WEIGHTS, Cause.PYTHON, child, NO_EVENT),
        (14 * MS, Stage.IMPORT, Cause.IMPORT, child, NO_EVENT),
    ]
    window = make_window(WindowKind.LOAD, 0, make_segments(T0_NS, pieces))

    again = imported_again(trace, window, modules_known_above(trace))

    expected = {Cause.IMPORT: 25 * MS, Cause.ANON_FAULT: 5 * MS}
    assert again == ImportedAgain(expected, {"torch": 30 * MS}, ("process-200",))


def test_processes_that_claim_to_have_started_one_another_are_gone_through_once() -> None:
    builder = program((CHILD, ABOVE, 60, (("multiprocessing.spawn", 61, 2),)))
    builder.fork(builder.tracks.find_thread(ABOVE), T0_NS + 55 * MS, by=builder.tracks.find_thread(CHILD))

    assert modules_known(builder) == {CHILD: {"torch"}}
