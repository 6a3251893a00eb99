"""What `slmtrace attach` refuses, and how HTTP records become windows and reports."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from slmtrace.capture.layout import HTTP_BODY, HTTP_REQUEST, RingType
from slmtrace.cli.main import main
from slmtrace.model.events import EventKind
from slmtrace.model.report import SourceStatus
from slmtrace.output.markdown import render_markdown
from slmtrace.output.text import render_text
from tests.support.builders import make_report, sample_run
from tests.unit.test_ebpf_decode import PID, T0, TID, Log

ENDED_PID = 1 << 22  # PID_MAX_LIMIT in include/linux/threads.h: never given


@pytest.mark.parametrize(
    ("arguments", "message", "exit_code"),
    [
        ([str(ENDED_PID)], "there is no process", 2),
        ([str(os.getpid())], "would record itself", 2),
        ([str(os.getppid())], "would record itself", 2),
        (["0"], "0 is not in the range", 2),
        ([str(os.getpid()), "--duration", "0"], "0.0 is not in the range", 2),
    ],
)
def test_what_cannot_be_attached_to_is_refused_in_words(
    arguments: list[str], message: str, exit_code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "capture"

    code = main(["attach", *arguments, "-o", str(output)])

    assert code == exit_code
    assert message in capsys.readouterr().err
    assert not output.exists()


def http(log: Log, at: int, what: int, tid: int = TID, descriptor: int = 9, process: int = PID) -> Log:
    return log.add(RingType.HTTP, at, tid, descriptor, what, process, 100)


def marks(log: Log, tmp_path: Path) -> list[tuple[int, str, str, int]]:
    """Return the marks that a log becomes: (time, name, request, thread)."""
    fragment, context = log.decode(tmp_path)
    events = fragment.events.take(fragment.events.kind == EventKind.MARK)
    return [
        (int(ts) - T0, context.strings[int(name)], context.strings[int(request)], context.tracks[int(track)].tid)
        for ts, name, request, track in zip(events.start_ns, events.name, events.request, events.track, strict=True)
    ]


def test_an_answer_belongs_to_the_request_on_its_connection(tmp_path: Path) -> None:
    log = Log().enroll()
    http(log, 10, HTTP_REQUEST)
    http(log, 20, HTTP_REQUEST, descriptor=11)
    http(log, 30, HTTP_BODY, tid=TID + 1, descriptor=11)
    http(log, 40, HTTP_BODY)
    http(log, 50, HTTP_REQUEST)
    http(log, 60, HTTP_BODY)

    assert marks(log, tmp_path) == [
        (10, "request_start", "http-1", TID),
        (20, "request_start", "http-2", TID),
        (30, "first_token", "http-2", TID + 1),
        (40, "first_token", "http-1", TID),
        (50, "request_start", "http-3", TID),
        (60, "first_token", "http-3", TID),
    ]


def test_an_answer_without_a_request_and_a_record_of_no_known_kind_are_no_marks(tmp_path: Path) -> None:
    log = Log().enroll()
    http(log, 10, HTTP_BODY)
    http(log, 20, HTTP_REQUEST, process=PID + 1, descriptor=9)
    http(log, 30, HTTP_BODY)
    http(log, 40, 99)

    assert marks(log, tmp_path) == [(20, "request_start", "http-1", TID)]


def test_a_report_of_a_running_process_shows_no_stages() -> None:
    report = sample_run()[1]
    attached = replace(report, capture={**report.capture, "engine": "attach"}, windows=report.windows[1:])

    assert "prefill" in render_text(report) and "prefill" in render_markdown(report)
    assert "prefill" not in render_text(attached) + render_markdown(attached)


@pytest.mark.parametrize(("status", "reason"), [("ok", "no plain HTTP/1 POST"), ("unavailable", "told by eBPF")])
def test_a_report_without_requests_says_why(status: str, reason: str) -> None:
    report = make_report([], capture={"engine": "attach"}, sources=[SourceStatus("ebpf", status, "", 0, 0)])

    assert reason in render_text(report)
    assert reason in render_markdown(report)
