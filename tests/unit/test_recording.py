"""What the recorder does besides running probes."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import pytest

from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import SLOT, SlotKind
from slmtrace.capture.rawlog import encode_header
from slmtrace.errors import UsageError
from slmtrace.probes.slotlog import SlotLog
from slmtrace.recording.accounts import disk_counts_since, read_accounts
from slmtrace.recording.ending import Until, parse_until
from slmtrace.recording.facts import safe_command
from slmtrace.recording.ownership import give_to_caller, topmost_missing
from slmtrace.recording.pagecache import make_cold, make_warm
from slmtrace.recording.progress import Progress, describe
from slmtrace.recording.tail import RangesTail, Seen


def test_a_command_keeps_its_shape_and_loses_what_is_private() -> None:
    words = ["/home/ada/.venv/bin/python", "-X", "dev", "/home/ada/serve.py", "--api-key", "sk-123", "--port=8000"]

    assert safe_command(words) == ["python", "-X", "...", "serve.py", "--api-key", "...", "--port=8000"]


def test_a_value_that_looks_like_a_script_is_hidden_behind_an_option() -> None:
    assert safe_command(["python", "-m", "vllm.serve", "--chat", "secret.py"]) == [
        *("python", "-m", "vllm.serve", "--chat", "..."),
    ]


def test_code_on_the_command_line_is_hidden() -> None:
    assert safe_command(["python", "-c", "print('secret')"]) == ["python", "-c", "..."]


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("exit", Until()),
        ("first-token", Until(n_first_tokens=1)),
        ("1-request", Until(n_requests=1)),
        ("12-requests", Until(n_requests=12)),
    ],
)
def test_until_says_what_ends_a_recording(text: str, until: Until) -> None:
    assert parse_until(text) == until


@pytest.mark.parametrize("text", ["", "0-requests", "-1-requests", "first", "3", "three-requests"])
def test_an_until_that_means_nothing_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="means nothing"):
        parse_until(text)


def test_until_is_reached_by_first_tokens_or_by_ended_requests() -> None:
    assert not Until(n_first_tokens=1).is_reached(Seen(n_started=3), 9.0)
    assert Until(n_first_tokens=1).is_reached(Seen(n_first_tokens=1), 9.0)
    assert not Until(n_requests=2).is_reached(Seen(n_ended=1, n_first_tokens=9), 9.0)
    assert Until(n_requests=2).is_reached(Seen(n_ended=2), 9.0)
    assert not Until().is_reached(Seen(n_ended=99, n_first_tokens=99), 9.0)


def test_until_is_reached_when_the_time_is_over() -> None:
    assert not Until(deadline_s=10.0).is_reached(Seen(), 9.9)
    assert Until(deadline_s=10.0).is_reached(Seen(), 10.0)


def test_a_target_that_ended_too_early_is_told_how_far_it_came() -> None:
    assert Until(n_requests=3).shortfall(Seen(n_ended=1)) == "it had answered 1 of 3 requests"
    assert Until(n_first_tokens=1).shortfall(Seen(n_started=1)) == "it had delivered no first token"
    assert Until(n_requests=3).shortfall(Seen(n_ended=3)) == ""
    assert Until(deadline_s=1).shortfall(Seen()) == ""


def test_the_tail_follows_a_log_that_grows(tmp_path: Path) -> None:
    log = SlotLog(tmp_path / "ranges.1.1.bin", "ranges")
    tail = RangesTail(tmp_path)
    log.append(SlotKind.IMPORT, 1, 2, name=log.intern("torch.nn.functional"))
    log.flush()
    assert tail.look().doing == "importing torch"

    log.append(SlotKind.BEGIN, 3, name=log.intern("weights|a very long label of more than forty bytes in all"))
    log.append(SlotKind.MARK, 4, name=log.intern("ready"))
    for mark in ("request_start", "first_token", "request_end", "request_start"):
        log.append(SlotKind.MARK, 5, name=log.intern(mark))
    log.close()
    seen = tail.look()

    assert seen.doing == "a very long label of more than forty bytes in all"
    assert seen.is_ready
    assert (seen.n_started, seen.n_first_tokens, seen.n_ended) == (2, 1, 1)
    assert tail.look() == seen


def test_the_tail_reads_past_a_slot_that_is_filled_late_and_reads_each_once(tmp_path: Path) -> None:
    record = struct.Struct(SLOT.pack_format())
    text = b"request_start".ljust(40, b"\0") + struct.pack("<IHH", 1, 13, SlotKind.TEXT)
    start = record.pack(1, 0, 0, 0, 1, 1, 0, 0, SlotKind.MARK)
    path = tmp_path / "ranges.1.1.bin"
    path.write_bytes(encode_header("ranges", SLOT) + text + bytes(record.size) + start + bytes(record.size * 5))
    tail = RangesTail(tmp_path)
    assert tail.look().n_started == 1
    assert tail.look().n_started == 1

    with path.open("r+b") as file:
        file.seek(4096 + record.size)
        file.write(start)

    assert tail.look().n_started == 2
    assert tail.look().n_started == 2


def test_the_tail_reads_a_log_of_many_blocks(tmp_path: Path) -> None:
    log = SlotLog(tmp_path / "ranges.7.1.bin", "ranges")
    for _ in range(5000):
        log.append(SlotKind.MARK, 1, name=log.intern("request_end"))
    log.close()

    assert RangesTail(tmp_path).look().n_ended == 5000


def test_progress_says_nothing_without_a_terminal() -> None:
    stream = io.StringIO()
    progress = Progress(stream)

    progress.say("starting probes")
    progress.show(Seen())
    progress.clear()

    assert stream.getvalue() == ""
    assert not progress.is_due()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_overwrites_one_line_and_takes_it_away() -> None:
    stream = Terminal()
    progress = Progress(stream)

    progress.say("starting probes")
    progress.clear()

    assert "slmtrace: starting probes ... 0.0 s" in stream.getvalue()
    assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize(
    ("seen", "text"),
    [
        (Seen(), "starting the target"),
        (Seen(doing="importing torch"), "loading: importing torch"),
        (Seen(is_ready=True), "ready, waiting for a request"),
        (Seen(is_ready=True, n_started=2, n_ended=1), "request 2 of 3"),
        (Seen(is_ready=True, n_started=2, n_ended=2), "2 requests served"),
    ],
)
def test_progress_says_what_is_waited_for(seen: Seen, text: str) -> None:
    assert describe(seen, 3) == text


def test_accounts_of_a_process_are_read_by_name() -> None:
    accounts = read_accounts(os.getpid())

    assert accounts["stat"]["minor_faults"] > 0
    assert accounts["io"]["rchar"] > 0
    assert accounts["schedstat"]["on_cpu_ns"] > 0


def test_accounts_of_a_process_that_is_gone_are_empty() -> None:
    assert read_accounts(2**22 + 1) == {}


def test_disks_that_did_nothing_are_left_out() -> None:
    assert all(any(change.values()) for change in disk_counts_since({}).values())


def test_a_tree_is_handed_to_the_user_behind_sudo_from_the_first_directory_that_we_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    made = topmost_missing(tmp_path / "traces" / "capture")
    Capture.create(tmp_path / "traces" / "capture")
    (tmp_path / "traces" / "link").symlink_to("/etc/passwd")
    monkeypatch.setenv("SUDO_UID", "12345")
    monkeypatch.setenv("SUDO_GID", "12346")

    give_to_caller(made)

    assert made == tmp_path / "traces"
    for path in (made, made / "capture", made / "capture" / "raw", made / "link"):
        assert (path.lstat().st_uid, path.lstat().st_gid) == (12345, 12346)
    assert Path("/etc/passwd").stat().st_uid == 0


def test_cold_files_have_no_page_in_memory_and_warm_ones_all(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(1 << 20))
    warm = make_warm([path])
    if not warm["resident_bytes"] or make_cold([path])["resident_bytes"] == warm["size_bytes"]:
        pytest.skip("a memory file system")

    assert warm == {"mode": "warm", "n_files": 1, "size_bytes": 1 << 20, "resident_bytes": 1 << 20}
    assert make_cold([path]) == {"mode": "cold", "n_files": 1, "size_bytes": 1 << 20, "resident_bytes": 0}
    assert make_warm([path], deadline_s=0.0)["resident_bytes"] == 0
