"""The numbers that C and Python share, and what the collector finds out by itself."""

from __future__ import annotations

import ctypes
import re
import struct
from pathlib import Path

import pytest

from slmtrace.capture import layout
from slmtrace.capture.layout import FoldClass, LostCause, RingType
from slmtrace.capture.syscalls import INTERESTS, syscall_interests, syscall_names
from slmtrace.probes.base import ebpf_source_dir
from slmtrace.probes.collector import session, structs
from slmtrace.probes.collector.btf import Btf
from slmtrace.probes.collector.groups import GROUP_NAMES
from slmtrace.probes.collector.sites import _site
from slmtrace.probes.collector.tracefs import field_offsets
from slmtrace.probes.ebpf import preloaded_allocators

SEGMENT_AT = 120  # in elf_with()
C_TYPES = {"u64": ctypes.c_uint64, "u32": ctypes.c_uint32, "struct frame": structs.Frame}


def numbers_in(name: str) -> dict[str, int]:
    """Read the enumerators and plain macros of a C file."""
    text = (ebpf_source_dir() / name).read_text()
    found = {match[1]: int(match[2]) for match in re.finditer(r"^\t([A-Z_]+) = (\d+),", text, re.M)}
    for match in re.finditer(r"^#define ([A-Z_]+) \(?(\w+)(?: << (\d+))?\)?", text, re.M):
        base = match[2].rstrip("UL")
        if base[:1].isdigit():
            found[match[1]] = int(base, 0) << int(match[3] or 0)
    return found


@pytest.mark.parametrize(("prefix", "kinds"), [("RING_", RingType), ("FOLD_", FoldClass), ("LOST_", LostCause)])
def test_enumerators_are_the_same_in_c_and_python(prefix: str, kinds: type[RingType]) -> None:
    in_c = {name: value for name, value in numbers_in("slmtrace.h").items() if name.startswith(prefix)}

    assert in_c == {prefix + kind.name: int(kind) for kind in kinds}


@pytest.mark.parametrize("prefix", ["FAULT_", "SWITCH_", "IRQ_", "NAME_OF_OUT", "HTTP_"])
def test_flags_are_the_same_in_c_and_python(prefix: str) -> None:
    in_c = {name: value for name, value in numbers_in("slmtrace.h").items() if name.startswith(prefix)}

    assert in_c
    assert in_c == {name: getattr(layout, name) for name in in_c}


def test_the_rules_of_system_calls_are_the_same_in_c_and_python() -> None:
    in_c = numbers_in("syscalls.bpf.c")

    assert [in_c[f"SYSCALL_{name}"] for name in ("ALWAYS", "SIZED", "TIMEOUT", "WRITES", "ARGUMENT")] == [
        session._ALWAYS,
        session._SIZED,
        session._TIMEOUT,
        session._WRITES,
        session._ARGUMENT,
    ]


def test_what_calls_do_with_their_bytes_is_the_same_in_c_and_python() -> None:
    in_c = numbers_in("http.bpf.c")

    assert [in_c[f"HTTP_{name}"] for name in ("RECEIVES", "SENDS", "VECTOR", "MESSAGE")] == [
        session._RECEIVES,
        session._SENDS,
        session._VECTOR,
        session._MESSAGE,
    ]
    assert set(session._HTTP_CALLS) <= set(syscall_names("x86_64").values()) & set(syscall_names("aarch64").values())


def test_a_record_is_as_large_in_c_as_in_python() -> None:
    assert layout.RING.record_bytes() == 8 + 48
    assert "sizeof(struct record) == 48" in (ebpf_source_dir() / "slmtrace.h").read_text()


@pytest.mark.parametrize(("name", "ours"), [
    ("fold", structs.Fold), ("frame", structs.Frame), ("thread", structs.Thread), ("file_key", structs.FileKey)
])  # fmt: skip
def test_structs_are_laid_out_alike_in_c_and_python(name: str, ours: type[ctypes.Structure]) -> None:
    text = (ebpf_source_dir() / "common.h").read_text()
    body = re.search(rf"^struct {name} {{\n(.*?)^}};", text, re.M | re.S)
    assert body is not None
    members = re.findall(r"^\t([\w ]+) (\w+)(\[\w+\])?;", body[1], re.M)

    assert [(member, C_TYPES[kind]) for kind, member, _ in members if kind in C_TYPES] == [
        (field[0], field[1]) for field in ours._fields_ if field[0] != "folds"
    ]
    assert [member for _, member, count in members if count] == [
        field[0] for field in ours._fields_ if field[0] == "folds"
    ]
    assert structs.Thread.folds.size == ctypes.sizeof(structs.Fold) * numbers_in("common.h")["N_FOLD_SLOTS"]


def test_each_group_has_its_source() -> None:
    sources = {path.name.removesuffix(".bpf.c") for path in ebpf_source_dir().glob("*.bpf.c")}

    assert sources == set(GROUP_NAMES)


@pytest.mark.parametrize(("machine", "number", "name"), [
    ("x86_64", 0, "read"),
    ("x86_64", 59, "execve"),
    ("x86_64", 202, "futex"),
    ("x86_64", 230, "clock_nanosleep"),
    ("x86_64", 298, "perf_event_open"),
    ("x86_64", 321, "bpf"),
    ("x86_64", 324, "membarrier"),
    ("x86_64", 334, "rseq"),
    ("aarch64", 63, "read"),
    ("aarch64", 98, "futex"),
    ("aarch64", 222, "mmap"),
    ("aarch64", 241, "perf_event_open"),
    ("aarch64", 280, "bpf"),
    ("aarch64", 283, "membarrier"),
    ("aarch64", 293, "rseq"),
    ("x86_64", 435, "clone3"),
    ("aarch64", 435, "clone3"),
    ("riscv64", 451, "cachestat"),
])  # fmt: skip
def test_system_calls_have_their_numbers(machine: str, number: int, name: str) -> None:
    assert syscall_names(machine)[number] == name


def test_every_interesting_system_call_exists_on_some_machine() -> None:
    known = {name for machine in ("x86_64", "aarch64") for name in syscall_names(machine).values()}
    named = [name for interest in INTERESTS for name in interest.names.split()]

    assert set(named) <= known
    assert len(named) == len(set(named))


def test_a_size_is_taken_from_the_right_argument() -> None:
    interests = syscall_interests("x86_64")

    assert (interests[9].argument, interests[25].argument, interests[12].argument) == (1, 2, -1)  # mmap, mremap, brk


def test_probes_move_past_instructions_that_would_be_single_stepped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    free = bytes.fromhex("4885ff 0f84bf000000 55 488d77f0")  # test %rdi,%rdi; je; push %rbp; lea
    malloc = bytes.fromhex("f30f1efa 4154 55")  # endbr64; push %r12
    opaque = bytes.fromhex("4883ec18 488b05")  # sub $0x18,%rsp: changes the stack

    assert _site(elf_with(free), 0x1000) == (SEGMENT_AT + 9, False)
    assert _site(elf_with(malloc), 0x1000) == (SEGMENT_AT + 4, False)
    assert _site(elf_with(opaque), 0x1000) == (SEGMENT_AT, True)


def test_btf_members_are_found_inside_anonymous_structs() -> None:
    strings = b"\0task_struct\0pid\0flag\0btf_trace_fire\0"
    at = {name: strings.index(name) for name in (b"task_struct", b"pid", b"flag", b"btf_trace_fire")}
    types = b"".join([
        struct.pack("<4I", 0, 1 << 24, 4, 32),  # 1: int
        struct.pack("<3I", 0, 4 << 24 | 1 << 31 | 1, 4)
        + struct.pack("<3I", at[b"flag"], 1, 1 << 24 | 5),  # 2: anonymous
        struct.pack("<3I", at[b"task_struct"], 4 << 24 | 2, 8)
        + struct.pack("<3I", at[b"pid"], 1, 32)
        + struct.pack("<3I", 0, 2, 64),  # 3
        struct.pack("<3I", 0, 13 << 24 | 3, 0) + bytes(24),  # 4: function prototype
        struct.pack("<3I", 0, 2 << 24, 4),  # 5: pointer
        struct.pack("<3I", at[b"btf_trace_fire"], 8 << 24, 5),  # 6: typedef
    ])  # fmt: skip
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))

    btf = Btf(header + types + strings)

    assert btf.member_bits("task_struct") == {"pid": 32, "flag": 69}
    assert btf.member_bits("nothing") == {}
    assert btf.tracepoint_arguments("fire") == 2
    assert btf.tracepoint_arguments("misfire") is None


def test_what_is_not_btf_is_refused() -> None:
    with pytest.raises(ValueError, match="not BTF"):
        Btf(b"\x7fELF" + bytes(100))


def test_offsets_come_from_a_tracepoints_format(tmp_path: Path) -> None:
    directory = tmp_path / "events" / "block" / "fire"
    directory.mkdir(parents=True)
    (directory / "format").write_text(
        "name: fire\nformat:\n"
        "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
        "\tfield:dev_t s_dev;\toffset:16;\tsize:4;\tsigned:0;\n"
        "\tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;\n"
    )

    assert field_offsets(tmp_path, "block:fire") == {"s_dev": 16, "rwbs": 34}
    assert field_offsets(tmp_path, "block:absent") == {}


def test_a_preloaded_allocator_is_found_by_its_path(tmp_path: Path) -> None:
    library = tmp_path / "libjemalloc.so.2"
    library.touch()

    assert preloaded_allocators({"LD_PRELOAD": f"{library}:/lib/other.so"}) == [str(library)]
    assert preloaded_allocators({}) == []


def elf_with(code: bytes) -> bytes:
    """Make the start of an ELF file whose one segment holds `code` at 0x1000."""
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    struct.pack_into("<Q", header, 0x20, 64)
    struct.pack_into("<HH", header, 0x36, 56, 1)
    segment = struct.pack("<IIQQQQQQ", 1, 5, SEGMENT_AT, 0x1000, 0x1000, 64, 64, 0)
    return bytes(header) + segment + code.ljust(64, b"\xcc")
