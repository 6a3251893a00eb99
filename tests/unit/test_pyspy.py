from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from slmtrace.capture.layout import ClockId, SlotKind
from slmtrace.decode import pyspy
from slmtrace.model.events import EventKind
from slmtrace.model.quality import Issue
from slmtrace.probes import chrometrace
from slmtrace.probes.chrometrace import Stretch, read_objects, read_stretches
from slmtrace.probes.pyspy import PySpyProbe
from slmtrace.probes.sampler import bracket_start
from tests.support.logs import make_context, new_capture, new_log, only_log

MS = 1_000_000


def frame(phase: str, ts_us: int, name: str, key: int = 1, pid: int = 70, filename: str = "") -> dict[str, Any]:
    args = {"filename": filename, "line": 9 if filename else 0}
    return {"args": args, "cat": "py-spy", "name": name, "ph": phase, "pid": pid, "tid": key, "ts": ts_us}


def roots(ts_us: int, key: int = 1, pid: int = 70, tid: str = "71") -> list[dict[str, Any]]:
    return [
        frame("B", ts_us, f'process {pid}:"python serve.py --api-key secret"', key, pid),
        frame("B", ts_us, f"thread ({tid}): MainThread", key, pid),
    ]


def written(tmp_path: Path, events: list[dict[str, Any]], cut_chars: int = 0) -> Path:
    path = tmp_path / "trace.json"
    text = json.dumps(events)
    path.write_text(text[: len(text) - cut_chars])
    return path


def test_a_stack_lasts_until_it_changes(tmp_path: Path) -> None:
    source = "/home/ada/project/serve.py"
    library = "/home/ada/venv/lib/python3.11/site-packages/torch/nn/module.py"
    events = [
        *roots(1_000),
        frame("B", 1_000, "main", filename=source),
        frame("B", 1_000, "forward", filename=library),
        frame("E", 5_000, "forward", filename=library),
        frame("E", 9_000, "main", filename=source),
    ]

    stretches = list(read_stretches(written(tmp_path, events)))

    assert stretches == [
        Stretch(1 * MS, 5 * MS, 70, 71, "main (serve.py:9);forward (torch/nn/module.py:9)"),
        Stretch(5 * MS, 9 * MS, 70, 71, "main (serve.py:9)"),
    ]


def test_command_lines_and_home_directories_are_left_out(tmp_path: Path) -> None:
    events = [*roots(1), frame("B", 1, "main", filename="/home/ada/serve.py"), frame("E", 2, "main")]

    text = repr(list(read_stretches(written(tmp_path, events))))

    assert "secret" not in text
    assert "ada" not in text


def test_threads_are_read_apart(tmp_path: Path) -> None:
    events = [
        *roots(1_000, key=1, tid="71"),
        frame("B", 1_000, "a", 1),
        *roots(2_000, key=2, tid="72"),
        frame("B", 2_000, "b", 2),
        frame("E", 3_000, "a", 1),
        frame("E", 4_000, "b", 2),
    ]

    stretches = list(read_stretches(written(tmp_path, events)))

    assert [(s.tid, s.stack, s.start_ns, s.end_ns) for s in stretches] == [
        (71, "a", 1 * MS, 3 * MS),
        (72, "b", 2 * MS, 4 * MS),
    ]


def test_a_thread_without_a_host_id_is_known_only_when_it_is_the_main_one(tmp_path: Path) -> None:
    main = [*roots(1, key=1, tid="0x7F00"), frame("B", 1, "a", 1), frame("E", 2, "a", 1)]
    worker = [frame("B", 1, "thread (0x7F01): worker", 2), frame("B", 1, "b", 2), frame("E", 3, "b", 2)]

    stretches = list(read_stretches(written(tmp_path, [*main, *worker])))

    assert [(s.stack, s.tid) for s in stretches] == [("a", 70), ("b", 0)]


def test_a_cut_trace_gives_what_stands_before_the_cut(tmp_path: Path) -> None:
    events = [*roots(1_000), frame("B", 1_000, "a"), frame("E", 2_000, "a"), frame("B", 2_000, "b")]

    whole = list(read_stretches(written(tmp_path, events)))
    cut = list(read_stretches(written(tmp_path, events, cut_chars=20)))

    assert whole == cut
    assert len(cut) == 1


def test_objects_are_read_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chrometrace, "CHUNK_CHARS", 7)
    objects = [{"name": 'a "quoted", {braced} name', "args": {"line": 1}}, {"name": "b", "args": {}}]

    assert list(read_objects(io.StringIO(json.dumps(objects)))) == objects


def test_a_stretch_becomes_one_event_a_sample(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    log = new_log(capture, "pyspy", sample_hz=100)
    log.append(SlotKind.CLOCK, 90 * MS, 110 * MS, a=100 * MS, name=ClockId.PYSPY)
    log.append(SlotKind.SAMPLE, 100 * MS, 130 * MS, b=70, tid=71, name=log.intern("main;work"))
    log.append(SlotKind.SAMPLE, 130 * MS, 130 * MS, b=70, tid=72, name=log.intern("main;once"))
    log.append(SlotKind.SAMPLE, 140 * MS, 130 * MS, b=70, tid=72)
    log.close()
    context = make_context()

    fragment = pyspy.decode(only_log(capture), context)

    events = fragment.events
    assert events.start_ns.tolist() == [100 * MS, 110 * MS, 120 * MS, 130 * MS]
    assert (events.end_ns == events.start_ns).all()
    assert (events.kind == EventKind.SAMPLE).all()
    assert [context.strings[name] for name in events.name.tolist()] == ["main;work"] * 3 + ["main;once"]
    assert [context.tracks[track].tid for track in events.track.tolist()] == [71, 71, 71, 72]
    assert fragment.clock_reads is not None
    assert fragment.clock_reads.tolist() == [[ClockId.PYSPY, 90 * MS, 100 * MS, 110 * MS]]
    assert context.quality.counts == {Issue.NEGATIVE_DURATION: 1}


def test_a_thread_that_does_nothing_for_long_gets_few_events_that_count_for_many(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    log = new_log(capture, "pyspy", sample_hz=100)
    log.append(SlotKind.SAMPLE, 0, 10_070 * MS, tid=71, name=log.intern("wait"))
    log.close()

    events = pyspy.decode(only_log(capture), make_context()).events

    assert len(events) == pyspy.MAX_EVENTS_A_STRETCH
    assert events.count.sum() == 1_007
    assert events.count.max() - events.count.min() <= 1


SAMPLING = (30, "py-spy> Sampling process 100 times a second. Press Control-C to exit.")
WROTE = (910, "py-spy> Wrote chrome trace to 'x.json'. Samples: 9 Errors: 0")


@pytest.mark.parametrize(
    ("lines", "first_thread_ns", "last_ns", "expected"),
    [
        ([SAMPLING, WROTE], 20, 500, (10, 20)),
        ([SAMPLING, WROTE], 0, 500, (10, 30)),
        ([SAMPLING, WROTE], 20, 895, (10, 15)),
    ],
)
def test_the_start_of_its_clock_is_bracketed_by_all_that_is_known(
    lines: list[tuple[int, str]], first_thread_ns: int, last_ns: int, expected: tuple[int, int]
) -> None:
    assert bracket_start(10, first_thread_ns, lines, last_ns) == expected


def test_a_missing_program_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slmtrace.probes.pyspy.find_pyspy", lambda: None)

    availability = PySpyProbe().check()

    assert (availability.status, availability.remedy) == ("unavailable", "pip install py-spy")


def test_a_denied_read_names_the_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = subprocess.CompletedProcess([], 1, "", "Permission Denied: Try running again with elevated permissions")
    monkeypatch.setattr("slmtrace.probes.pyspy.find_pyspy", lambda: "/usr/bin/py-spy")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: denied)

    availability = PySpyProbe().check()

    assert availability.status == "unavailable"
    assert "denied" in availability.reason
    assert "root" in availability.remedy
