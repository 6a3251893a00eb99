"""The log of one process's CUDA activity: blocks of CUPTI's own buffers, and of SLOT records. Standard library only.

After its header, the log is a sequence of blocks of whole pages. A block starts with a BLOCK header; a BUFFER block
then holds the records of CUPTI exactly as it wrote them, a SLOTS block our own (clock reads, names, notes). `used` is
0 while a block is being filled: what a killed process left is read up to the first record that was never written.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from .layout import HEADER_BYTES, LOST_OFFSET, SLOT, Layout

# The raw log contract's view of such a log: words of 8 bytes.
BLOCKS = Layout("cupti", 1, (("word", "Q"),))

# u64 in the log's header, after the count of lost records: records in blocks that are complete, notes excluded.
COUNT_OFFSET = LOST_OFFSET + 8
# u64 in the log's header: nanoseconds that this process spent reading completed buffers and looking up names.
COST_OFFSET = LOST_OFFSET + 16

BLOCK = struct.Struct("<QQQQQQQQ")  # magic, BlockKind, block_bytes with this header, used_bytes, n_records, 0, 0, 0
BLOCK_MAGIC = 0x4B434F4C424D4C53  # "SLMBLOCK"
PAGE_BYTES = 4096

# Keys of SlotKind.SYMBOL: the address of a string, or this bit | callback domain << 32 | callback id.
CALLBACK_KEY = 1 << 63
DRIVER_DOMAIN, RUNTIME_DOMAIN = 1, 2


class BlockKind(enum.IntEnum):
    """What a block holds."""

    BUFFER = 1
    SLOTS = 2


class ActivityKind(enum.IntEnum):
    """Kinds of CUPTI records that we ask for (CUPTI, cupti_activity.h, CUpti_ActivityKind)."""

    MEMCPY = 1
    MEMSET = 2
    DRIVER = 4
    RUNTIME = 5
    CONCURRENT_KERNEL = 10
    MARKER = 12
    OVERHEAD = 17
    MEMCPY2 = 22  # between devices
    SYNCHRONIZATION = 38
    GRAPH_TRACE = 51
    JIT = 52


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """Where the fields of a CUPTI record that we read lie: (name, offset, numpy type)."""

    size_bytes: int
    fields: tuple[tuple[str, int, str], ...]


_TIMES = (("start", 16, "<u8"), ("end", 24, "<u8"))
_PLACE = (("device", 32, "<u4"), ("context", 36, "<u4"), ("stream", 40, "<u4"))
_COPY = (("copy_kind", 4, "u1"), ("source", 5, "u1"), ("target", 6, "u1"), ("bytes", 8, "<u8"))
_API = RecordLayout(
    40,
    (
        ("cbid", 4, "<u4"),
        ("start", 8, "<u8"),
        ("end", 16, "<u8"),
        ("tid", 28, "<u4"),
        ("correlation", 32, "<u4"),
        ("result", 36, "<u4"),
    ),
)

# CUPTI 13 on 64-bit Linux: CUpti_ActivityMemcpy6, Memset4, API, Kernel10, Marker2, Overhead3, MemcpyPtoP4,
# Synchronization2, GraphTrace2, Jit2.
RECORDS: dict[ActivityKind, RecordLayout] = {
    ActivityKind.MEMCPY: RecordLayout(96, (*_TIMES, *_PLACE, *_COPY, ("correlation", 44, "<u4"))),
    ActivityKind.MEMSET: RecordLayout(88, (*_TIMES, *_PLACE, ("bytes", 8, "<u8"), ("correlation", 44, "<u4"))),
    ActivityKind.DRIVER: _API,
    ActivityKind.RUNTIME: _API,
    ActivityKind.CONCURRENT_KERNEL: RecordLayout(
        216,
        (
            *_TIMES,
            ("device", 40, "<u4"),
            ("context", 44, "<u4"),
            ("stream", 48, "<u4"),
            ("correlation", 92, "<u4"),
            ("name", 104, "<u8"),
            ("graph", 156, "<u4"),
        ),
    ),
    ActivityKind.MARKER: RecordLayout(
        56,
        (
            ("flags", 4, "<u4"),
            ("start", 8, "<u8"),
            ("id", 16, "<u4"),
            ("object", 20, "<u4"),
            ("tid", 28, "<u4"),
            ("name", 40, "<u8"),
            ("domain", 48, "<u8"),
        ),
    ),
    ActivityKind.OVERHEAD: RecordLayout(
        56,
        (
            ("overhead", 4, "<u4"),
            ("object", 8, "<u4"),
            ("tid", 16, "<u4"),
            ("start", 24, "<u8"),
            ("end", 32, "<u8"),
            ("correlation", 40, "<u4"),
        ),
    ),
    ActivityKind.MEMCPY2: RecordLayout(96, (*_TIMES, *_PLACE, *_COPY, ("correlation", 60, "<u4"))),
    ActivityKind.SYNCHRONIZATION: RecordLayout(
        56,
        (
            ("type", 4, "<u4"),
            ("start", 8, "<u8"),
            ("end", 16, "<u8"),
            ("correlation", 24, "<u4"),
            ("context", 28, "<u4"),
            ("stream", 32, "<u4"),
        ),
    ),
    ActivityKind.GRAPH_TRACE: RecordLayout(
        56,
        (
            ("correlation", 4, "<u4"),
            ("start", 8, "<u8"),
            ("end", 16, "<u8"),
            ("device", 24, "<u4"),
            ("graph", 28, "<u4"),
            ("context", 32, "<u4"),
            ("stream", 36, "<u4"),
        ),
    ),
    ActivityKind.JIT: RecordLayout(
        72,
        (
            ("entry", 4, "<u4"),
            ("operation", 8, "<u4"),
            ("start", 16, "<u8"),
            ("end", 24, "<u8"),
            ("correlation", 32, "<u4"),
            ("tid", 68, "<u4"),
        ),
    ),
}
SUPPORTED_MAJOR = 13
_WORDS_BY_KIND = {int(kind): layout.size_bytes // 8 for kind, layout in RECORDS.items()}
# CUPTI sets this bit of a record's kind until it knows the times: a killed process leaves such records.
_UNFINISHED = 1 << 31


@dataclass(frozen=True, slots=True)
class Block:
    """One block: where its payload lies in the log, and what its header says of it."""

    kind: BlockKind
    start: int  # offset of the payload
    end: int  # of what is used: by the header, or, in a block that was never completed, of the whole block
    n_records: int
    is_complete: bool


def blocks(log: memoryview) -> Iterator[Block]:
    """Yield the blocks of a log in the order of its bytes; what does not read as a block ends the log."""
    offset = HEADER_BYTES
    while offset + BLOCK.size <= len(log):
        magic, kind, block_bytes, used_bytes, n_records, *_ = BLOCK.unpack_from(log, offset)
        is_sound = magic == BLOCK_MAGIC and block_bytes >= PAGE_BYTES and block_bytes % PAGE_BYTES == 0
        if not is_sound or used_bytes > block_bytes - BLOCK.size or kind not in BlockKind.__members__.values():
            return
        start = offset + BLOCK.size
        end = start + (used_bytes or block_bytes - BLOCK.size)
        yield Block(BlockKind(kind), start, min(end, len(log)), n_records, used_bytes > 0)
        offset += block_bytes


@dataclass(frozen=True, slots=True)
class Found:
    """A BUFFER block's records: their offsets by ActivityKind, and what cannot be used."""

    offsets: dict[int, list[int]]
    n_unfinished: int  # records without times: the process was killed before CUPTI had them
    is_whole: bool  # the block's end was reached


def find_records(log: memoryview, block: Block) -> Found:
    """Return where a BUFFER block's records lie.

    A record's length follows from its kind; an unknown kind ends the walk.
    """
    words = log[block.start : block.start + (block.end - block.start) // 8 * 8].cast("Q")
    offsets: dict[int, list[int]] = {kind: [] for kind in _WORDS_BY_KIND}
    size_words, n, at, n_unfinished = _WORDS_BY_KIND, len(words), 0, 0
    while at < n:
        kind = words[at] & 0xFFFFFFFF
        length = size_words.get(kind & ~_UNFINISHED)
        if length is None or at + length > n:
            return Found(offsets, n_unfinished, not kind and not block.is_complete)
        if kind & _UNFINISHED:
            n_unfinished += 1
        else:
            offsets[kind].append(block.start + at * 8)
        at += length
    return Found(offsets, n_unfinished, True)


def slot_offsets(log: memoryview, block: Block) -> range:
    """Return the offsets of a SLOTS block's records; the first empty one ends it."""
    size_bytes = SLOT.record_bytes()
    n_slots = (block.end - block.start) // size_bytes
    kinds = bytes(log[block.start + size_bytes - 2 : block.start + n_slots * size_bytes : size_bytes])
    n_used = kinds.find(b"\0")
    return range(block.start, block.start + (n_slots if n_used < 0 else n_used) * size_bytes, size_bytes)
