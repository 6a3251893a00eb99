"""The log that the instrument writes: its numbers, its header, and what becomes of records when it cannot grow."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import pytest

from slmtrace.capture import layout
from slmtrace.capture.directory import RawLog
from slmtrace.capture.rawlog import encode_header, read_header
from slmtrace.decode.ranges import decode
from slmtrace.instrument import constants, process, recorder
from slmtrace.instrument.recorder import Recorder
from tests.support.ranges import new_context, read_raw, rows_of


def logs(raw: Path) -> list[Path]:
    return sorted(raw.glob("ranges.*.bin"))


def write_ranges(log: Recorder, n: int) -> None:
    name = log.intern("weights|read")
    for start_ns in range(n):
        log.write(constants.RANGE, name, start_ns, start_ns + 1)


def test_the_numbers_loaded_into_the_target_are_those_of_the_layout() -> None:
    kinds = {kind.name: kind.value for kind in layout.SlotKind}
    marks = {name: getattr(layout, name) for name in vars(layout) if name.startswith("MARK_")}
    expected = {
        **marks,
        "HEADER_BYTES": layout.HEADER_BYTES,
        "LOST_OFFSET": layout.LOST_OFFSET,
        "STEP": layout.STEP,
        "MAGIC": layout.MAGIC,
        "LAYOUT": layout.SLOT.name,
        "LAYOUT_VERSION": layout.SLOT.version,
        "FIELDS": layout.SLOT.fields,
        "RECORD_FORMAT": layout.SLOT.pack_format(),
        "RECORD_BYTES": layout.SLOT.record_bytes(),
        "TEXT_BYTES": layout.TEXT_BYTES,
        "TEXT_FORMAT": "<40sIHH",
    }
    actual = {name: value for name, value in vars(constants).items() if name.isupper()}

    assert actual == {**expected, **{name: kinds[name] for name in actual if name in kinds}}


def test_the_header_is_what_rawlog_would_write() -> None:
    header = process.header(42, 'naïve "script" 😀\\.py')

    facts = json.loads(header[: constants.LOST_OFFSET].rstrip(b"\0"))
    own = ("boot_ns", "executable", "pid", "ppid", "process_start_ns", "program", "python")
    assert header == encode_header("ranges", layout.SLOT, **{name: facts[name] for name in own})
    assert facts["program"] == 'naïve "script" 😀\\.py'
    assert facts["ppid"] == os.getppid()
    assert 0 < facts["process_start_ns"] < facts["boot_ns"]


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("-c\0from multiprocessing.spawn import spawn_main; spawn_main(7)\0--fork", "multiprocessing.spawn"),
        ("-c\0print('secret')", "-c"),
        ("-X\0importtime\0-u\0/home/me/serve.py\0--token\0hunter2", "serve.py"),
        ("-m\0vllm.entrypoints\0--api-key\0hunter2", "vllm.entrypoints"),
        ("-mpip\0install", "pip"),
        ("-uc\0print('secret')", "-c"),
        ("-Ium\0pip\0install", "pip"),
        ("-Wignore\0--check-hash-based-pycs\0always\0serve.py", "serve.py"),
        ("", "python"),
    ],
)
def test_the_program_is_named_without_its_arguments(
    command: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cmdline").write_text("/usr/bin/python\0" + command + ("\0" if command else ""))
    monkeypatch.setattr(process, "open", lambda *_: (tmp_path / "cmdline").open("rb"), raising=False)

    assert process.program_name() == program


def test_a_log_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    assert Recorder().open(str(tmp_path))

    (path,) = logs(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_header(path)["pid"] == os.getpid()


def test_a_log_grows_beyond_its_first_chunk(tmp_path: Path) -> None:
    log = Recorder()
    log.open(str(tmp_path))

    write_ranges(log, recorder.CHUNK_RECORDS + 10)

    assert [row.start_ns for row in read_raw(tmp_path)] == list(range(recorder.CHUNK_RECORDS + 10))


def test_long_strings_span_records_and_text_beyond_the_limit_is_cut(tmp_path: Path) -> None:
    log = Recorder()
    log.open(str(tmp_path))

    log.note("topic", "é" * 5000)

    (row,) = read_raw(tmp_path)
    assert row.name == "topic: " + "é" * (recorder.MAX_TEXT_BYTES // 2)


def test_what_a_full_log_loses_is_counted_and_decoded_as_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_CHUNKS", 1)
    log = Recorder()
    log.open(str(tmp_path))

    write_ranges(log, recorder.CHUNK_RECORDS + 10)

    (path,) = logs(tmp_path)
    context = new_context()
    fragment = decode(RawLog(path, read_header(path)), context)
    # One record of the chunk holds the name.
    assert [loss.count for loss in fragment.losses] == [11]
    assert len(rows_of(fragment, context)) == recorder.CHUNK_RECORDS - 1
    assert log.intern("a name that no longer fits") == 0


def test_a_disk_that_is_full_loses_records_and_spares_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Recorder()
    log.open(str(tmp_path))

    def refuse(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    write_ranges(log, recorder.CHUNK_RECORDS + 1)

    assert read_header(logs(tmp_path)[0])["lost"] == 2


def test_a_directory_that_cannot_be_written_leaves_the_recorder_off(tmp_path: Path) -> None:
    log = Recorder()

    assert not log.open(str(tmp_path / "missing"))
    log.write(constants.RANGE, log.intern("a|b"), 1, 2)
    log.note("topic", "text")

    assert logs(tmp_path) == []


def test_a_value_that_does_not_fit_is_a_lost_record(tmp_path: Path) -> None:
    log = Recorder()
    log.open(str(tmp_path))

    log.write(constants.RANGE, log.intern("a|b"), 1, 2, a=1 << 70)

    assert read_header(logs(tmp_path)[0])["lost"] == 1


def test_a_forked_child_writes_its_own_log(tmp_path: Path) -> None:
    log = Recorder()
    log.open(str(tmp_path))
    log.write(constants.RANGE, log.intern("weights|parent"), 1, 2)

    child = os.fork()
    if child == 0:
        log.reopen_after_fork()
        log.write(constants.RANGE, log.intern("weights|child"), 3, 4)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    assert [(row.name, row.pid, row.tid) for row in read_raw(tmp_path)] == [
        ("parent", os.getpid(), os.getpid()),
        ("child", child, child),
    ]
