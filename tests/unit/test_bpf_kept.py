"""Compiled BPF programs between runs: only what we alone can write is loaded, and damage means compiling again."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from slmtrace.probes.collector import kept
from slmtrace.probes.collector.bytecode import Bytecode, MapLayout, decode_bytecode, with_maps

LOAD_MAP = struct.pack("<BBhi", 0x18, 1 | 1 << 4, 0, 1) + bytes(8)
LOAD_NUMBER = struct.pack("<BBhi", 0x18, 1, 0, 1) + struct.pack("<BBhi", 0x18, 1 << 4, 0, 1)
EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
BYTECODE = Bytecode(
    (MapLayout("ring", 27, 0, 0, 4096, 0), MapLayout("threads", 1, 4, 8, 10, 0)), {"on": LOAD_MAP + EXIT}
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "slmtrace" / "bpf"


def test_what_was_kept_is_found_again(directory: Path) -> None:
    kept.keep("key", BYTECODE)

    assert kept.find("key") == BYTECODE
    assert kept.find("other") is None
    assert [path.name for path in directory.iterdir()] == ["key"]
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("place", ["", "key"])
@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_what_others_may_write_is_not_loaded(directory: Path, place: str, mode: int) -> None:
    kept.keep("key", BYTECODE)

    (directory / place).chmod(mode)

    assert kept.find("key") is None


@pytest.mark.root
@pytest.mark.parametrize("place", ["", "key"])
def test_what_belongs_to_somebody_else_is_not_loaded(directory: Path, place: str) -> None:
    kept.keep("key", BYTECODE)

    os.chown(directory / place, 12345, 12345)

    assert kept.find("key") is None


def test_nothing_is_kept_where_others_may_write(directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o777)

    kept.keep("key", BYTECODE)

    assert not list(directory.iterdir())


@pytest.mark.parametrize("place", ["", "key"])
def test_links_are_not_followed(directory: Path, place: str) -> None:
    kept.keep("key", BYTECODE)
    real = directory / place
    moved = real.rename(directory.parent / "moved")

    real.symlink_to(moved)

    assert kept.find("key") is None


def test_an_entry_damaged_anywhere_is_as_good_as_none(directory: Path) -> None:
    kept.keep("key", BYTECODE)
    whole = (directory / "key").read_bytes()

    for at in range(len(whole)):
        (directory / "key").write_bytes(whole[:at])
        assert kept.find("key") is None
        (directory / "key").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert kept.find("key") is None


def test_a_place_that_cannot_be_made_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    kept.keep("key", BYTECODE)

    assert kept.find("key") is None


def test_the_oldest_entries_go(directory: Path) -> None:
    for number in range(kept.MAX_KEPT + 2):
        kept.keep(str(number), BYTECODE)
        os.utime(directory / str(number), (number, number))

    assert kept.find("1") is None
    assert kept.find("2") == BYTECODE


def test_only_instructions_that_load_a_map_are_changed() -> None:
    code = LOAD_NUMBER + LOAD_MAP + EXIT

    changed = with_maps(code, [70, 71])

    assert changed == LOAD_NUMBER + LOAD_MAP[:4] + struct.pack("<i", 71) + LOAD_MAP[8:] + EXIT
    assert with_maps(changed, {71: 1}) == code


def test_bytecode_survives_being_written() -> None:
    assert decode_bytecode(BYTECODE.encode()) == BYTECODE
