"""Captures and traces from anywhere: refused in one message, or explained as far as they go; never obeyed."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from slmtrace.analysis import analyze, write_outputs
from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import HEADER_BYTES, ClockId, SlotKind
from slmtrace.capture.shape import Each, Facts, Optional, Whole, find_misfit
from slmtrace.cli.main import main
from slmtrace.errors import CaptureError
from slmtrace.model.quality import Issue
from slmtrace.output.perfetto import read_embedded_report, write_perfetto
from tests.support.builders import sample_run
from tests.support.logs import new_capture, new_log

ESCAPE = "\x1b]0;owned\x07\x1b[31m"


def write_manifest(target_capture: Capture, **content: Any) -> None:
    target_capture.write_manifest({"status": "complete", **content})


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize(
    ("value", "shape", "misfit"),
    [
        ({"a": 1, "b": "x"}, {"a": int}, ""),
        ({"a": True}, {"a": int}, "a is not an integer of 64 bits"),
        ({"a": 1 << 63}, {"a": int}, "a is not an integer of 64 bits"),
        ({"a": 3}, {"a": float}, ""),
        ({"a": float("nan")}, {"a": float}, "a is not a finite number"),
        ({"a": [{"b": "x"}, {"b": 1}]}, {"a": [{"b": str}]}, "a.1.b is not text"),
        ({"a": None}, {"a": Optional(str)}, ""),
        ({"a": {"b": 1, "c": []}}, {"a": Each(int)}, "a.c is not an integer of 64 bits"),
        ({"a": {}}, {"a": Whole({"b": int})}, "a has no b"),
        ([], {"a": int}, "it is no object"),
        ({"new": {"anything": [1, 2.5, None, "x"]}}, {}, ""),
        ({"new": {"anything": float("inf")}}, {}, "new is nested too deeply, or has a number beyond 64 bits"),
        (json.loads("[" * 40 + "]" * 40), Facts, "it is nested too deeply, or has a number beyond 64 bits"),
    ],
)
def test_a_misfit_is_named_by_its_place(value: object, shape: Any, misfit: str) -> None:
    assert find_misfit(value, shape) == misfit


@pytest.mark.parametrize(
    "content",
    [
        {"sources": {"ebpf": 1}},
        {"sources": [{"name": ["ebpf"]}]},
        {"ledger": [{"source": "ebpf", "seen": 3}]},
        {"ledger": [{"source": "ebpf", "seen": 1 << 70, "written": 0, "lost": {}}]},
        {"target": 0.5},
        {"target": {"pid": "1", "start_ns": 5}},
        {"state": "none"},
        {"capture": {"host": {"cpus": "many"}}},
        {"overhead": 3},
    ],
)
def test_a_manifest_of_another_shape_is_refused(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capture = new_capture(tmp_path)
    write_manifest(capture, **content)

    code, text = shown(capsys, "report", str(capture.path))

    assert code == 4
    assert f"{capture.manifest_path} is damaged: {next(iter(content))}" in text


def test_a_manifest_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    (tmp_path / "secret.json").write_text('{"schema": "slmtrace.capture/1", "capture": {"model": "secret"}}')
    capture.manifest_path.symlink_to(tmp_path / "secret.json")

    with pytest.raises(CaptureError, match=r"manifest\.json"):
        capture.read_manifest()


def test_a_manifest_that_is_a_pipe_holds_nobody_up(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    os.mkfifo(capture.manifest_path)

    with pytest.raises(CaptureError, match="not a regular file"):
        capture.read_manifest()


def test_a_log_whose_header_is_nested_without_end_is_unreadable(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    (capture.raw / "ranges.1.bin").write_bytes(b"[" * 3000 + b"\0" * HEADER_BYTES)

    logs, unreadable = capture.raw_logs()

    assert (logs, [one.reason for one in unreadable]) == ([], ["no header"])


def test_a_thread_id_that_perfetto_has_no_room_for_is_written_as_unknown(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    write_manifest(capture)
    log = new_log(capture, "ranges", pid=7)
    log.append(SlotKind.RANGE, 10, 20, tid=0xFFFFFFFF, name=log.intern("weights|load"))
    log.close()

    trace, report = analyze(capture)
    write_outputs(trace, report, capture)

    assert [trace.tracks[row].tid for row in trace.events.track.tolist()] == [0]


def test_events_that_a_clock_map_moves_before_zero_are_counted(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    write_manifest(capture)
    log = new_log(capture, "pyspy", pid=7)
    # When the sampler's clock said 1000 s, CLOCK_MONOTONIC said 1 s.
    log.append(SlotKind.CLOCK, 10**9, 10**9, a=10**12, name=int(ClockId.PYSPY))
    log.append(SlotKind.SAMPLE, 5, 5, b=7, tid=7, name=log.intern("main (x.py:1)"))
    log.close()

    trace, report = analyze(capture)
    write_outputs(trace, report, capture)

    assert len(trace.events) == 0
    assert trace.quality.counts[Issue.IMPLAUSIBLE_TIME] == 1


def test_records_at_times_that_no_clock_shows_are_counted(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    write_manifest(capture)
    log = new_log(capture, "proc")
    for ts_ns in (5, (1 << 64) - 1):
        log.append(SlotKind.COUNTER, ts_ns, a=3, name=log.intern("memory bytes"))
    log.close()

    trace, _ = analyze(capture)

    assert [series.ts_ns.tolist() for series in trace.counters] == [[5]]
    assert trace.quality.counts[Issue.IMPLAUSIBLE_TIME] == 1


def test_a_breakdown_that_does_not_add_up_is_refused(tmp_path: Path) -> None:
    trace, report = sample_run()
    write_perfetto(trace, report, tmp_path / "a.pftrace")
    content = (tmp_path / "a.pftrace").read_bytes()
    honest = b'"ns":%d,"phase":"storage"' % report.windows[0].causes[0].ns
    assert honest in content

    (tmp_path / "a.pftrace").write_bytes(content.replace(honest, honest.replace(b"0,", b"9,"), 1))

    with pytest.raises(CaptureError, match="sum to"):
        read_embedded_report(tmp_path / "a.pftrace")


def test_a_profile_whose_compression_is_damaged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = gzip.compress(json.dumps({"traceEvents": [{"ph": "X"}] * 1000}).encode())
    (tmp_path / "p.json.gz").write_bytes(packed[:20] + b"\xff\xff\xff" + packed[23:])

    code, text = shown(capsys, "import", str(tmp_path / "p.json.gz"))

    assert code == 4
    assert "cannot be read" in text


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_a_models_name_reaches_no_terminal_raw(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capture = new_capture(tmp_path)
    write_manifest(
        capture,
        capture={"engine": "hf", "model": f"../{ESCAPE}model", "command": [ESCAPE], "host": {"kernel": ESCAPE}},
        sources=[{"name": ESCAPE, "status": "partial", "reason": ESCAPE}],
        ledger=[{"source": ESCAPE, "seen": 2, "written": 1, "lost": {ESCAPE: 1}}],
        state={ESCAPE: {"before": {ESCAPE: ESCAPE}, "after": {}}},
        target={"pid": 7, "start_ns": 1, "end_ns": 1_000_000},
    )

    code, text = shown(capsys, "report", str(capture.path), "--format", form)

    assert code == 0
    assert "model" in text
    assert not {"\x1b", "\x07"} & set(text)


@pytest.mark.parametrize("command", ["report", "view", "import"])
def test_a_message_names_a_hostile_path_harmlessly(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = shown(capsys, command, f"/nowhere/{ESCAPE}x")

    assert code == 4
    assert "/nowhere/\\x1b]0;owned" in text
    assert "\x1b" not in text


def test_a_run_of_a_model_with_a_hostile_name_tells_it_harmlessly(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = shown(capsys, "run", "--model", f"../../{ESCAPE}")

    assert code == 2
    assert "\x1b" not in text
