"""Windows from marks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slmtrace.model.events import EventKind, Events, make_events, merge_events
from slmtrace.model.quality import Issue, Quality
from slmtrace.model.sched import empty_sched
from slmtrace.model.strings import Strings
from slmtrace.model.taxonomy import WindowKind
from slmtrace.model.trace import Trace
from slmtrace.model.tracks import Tracks
from slmtrace.model.windows import broken_off_ns, find_windows

TARGET = {"pid": 10, "start_ns": 100, "end_ns": 9_000}


def trace_of(*marks: tuple[int, str, str], target: dict[str, Any] | None = TARGET) -> Trace:
    tracks, strings = Tracks(), Strings()
    track = tracks.thread(10, 10)
    tables: list[Events] = [
        make_events(
            1,
            kind=EventKind.MARK,
            track=track,
            start_ns=ts,
            end_ns=ts,
            name=strings.intern(name),
            request=strings.intern(request),
        )
        for ts, name, request in marks
    ]
    manifest = {"target": target} if target else {}
    return Trace(manifest, merge_events(tables), tracks, strings, empty_sched(), [], [], [], Quality())


def spans(trace: Trace) -> list[tuple[str, int, int]]:
    return [(window.label, window.start_ns, window.end_ns) for window in find_windows(trace)]


def test_load_ends_at_the_last_ready_before_the_first_request() -> None:
    trace = trace_of((500, "ready", ""), (700, "ready", ""), (800, "request_start", "a"), (900, "first_token", "a"),
                     (950, "ready", ""))  # fmt: skip

    assert spans(trace) == [("load", 100, 700), ("ttft 0", 800, 900)]


def test_requests_are_numbered_by_their_start_and_end_at_their_own_first_token() -> None:
    trace = trace_of((200, "ready", ""), (300, "request_start", "b"), (310, "request_start", "a"),
                     (400, "first_token", "a"), (500, "first_token", "b"), (600, "first_token", "b"))  # fmt: skip

    windows = find_windows(trace)

    assert [(w.label, w.request_id, w.start_ns, w.end_ns) for w in windows[1:]] == [
        ("ttft 0", "b", 300, 500),
        ("ttft 1", "a", 310, 400),
    ]


def test_a_request_without_a_first_token_has_no_window_and_is_counted() -> None:
    trace = trace_of((200, "ready", ""), (300, "request_start", "a"), (400, "request_end", "a"))

    assert spans(trace) == [("load", 100, 200)]
    assert trace.quality.counts == {Issue.NO_FIRST_TOKEN: 1}


def test_a_target_that_never_gets_ready_has_a_load_window_that_ends_with_it_and_says_so() -> None:
    windows = find_windows(trace_of())

    assert [(w.kind, w.start_ns, w.end_ns) for w in windows] == [(WindowKind.LOAD, 100, 9_000)]
    assert "never got ready" in windows[0].note


def test_a_load_that_failed_names_the_process_that_was_killed_first() -> None:
    trace = trace_of((300, "killed by SIGKILL", ""), (400, "killed by SIGABRT", ""))
    trace.tracks.update(trace.tracks.thread(10), name="EngineCore")

    (load,) = find_windows(trace)

    assert load.note == "the target never got ready: EngineCore (10) was killed by SIGKILL"


def test_what_broke_a_load_off_is_the_first_killing_or_the_interruption_and_of_a_success_nothing() -> None:
    killed = ((10**9, "killed by SIGKILL", ""), (2 * 10**9, "killed by SIGABRT", ""))
    interrupted = {**TARGET, "exit_code": 130, "interrupted_ns": 3 * 10**9, "ended_by": "SIGINT"}

    assert broken_off_ns(trace_of(*killed, target=interrupted)) == 10**9
    assert broken_off_ns(trace_of(target=interrupted)) == 3 * 10**9 - 50_000_000
    assert broken_off_ns(trace_of(*killed, target={**TARGET, "exit_code": 0})) is None
    (load,) = find_windows(trace_of(target=interrupted))
    assert load.note == "the target never got ready: ends with the target, which SIGINT ended"


def test_a_target_that_was_not_started_by_us_has_no_load_window() -> None:
    trace = trace_of((300, "request_start", "a"), (400, "first_token", "a"), target=None)

    assert spans(trace) == [("ttft 0", 300, 400)]


def test_a_clients_marks_are_outside_its_servers_and_count() -> None:
    trace = trace_of((200, "request_start", "a"), (400, "first_token", "a"))
    client = trace.tracks.thread(20, 20)
    seen_by_client = make_events(
        2,
        kind=EventKind.MARK,
        track=client,
        start_ns=[150, 390],
        end_ns=[150, 390],
        name=[trace.strings.intern("request_start"), trace.strings.intern("first_token")],
        request=trace.strings.intern("a"),
    )
    both = replace(trace, events=merge_events([trace.events, seen_by_client]))

    window = find_windows(both)[-1]

    assert (window.start_ns, window.end_ns, window.track) == (150, 390, client)  # its server's mark came late


def test_a_servers_marks_count_where_no_client_was_recorded() -> None:
    trace = trace_of((200, "request_start", "a"), (400, "first_token", "a"))

    assert spans(trace)[1:] == [("ttft 0", 200, 400)]


def test_a_second_first_token_of_the_same_process_does_not_matter() -> None:
    trace = trace_of((200, "request_start", "a"), (400, "first_token", "a"), (700, "first_token", "a"))

    assert spans(trace)[1:] == [("ttft 0", 200, 400)]


def test_a_process_that_ran_already_has_request_windows_that_say_how_they_were_found() -> None:
    trace = trace_of((200, "request_start", "http-1"), (400, "first_token", "http-1"), target={"attached_ns": 100})

    (window,) = find_windows(trace)

    assert (window.label, window.start_ns, window.end_ns) == ("ttft 0", 200, 400)
    assert "first bytes read" in window.note
