"""Damage real files at random: bytes of records, fields of headers, values of JSON, whole files."""

from __future__ import annotations

import copy
import gzip
import json
import random
import struct
from collections.abc import Callable, Collection
from typing import Any

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as pb

from slmtrace.capture.layout import HEADER_BYTES, LOST_OFFSET, RING, SLOT, RingType, SlotKind
from slmtrace.output.perfetto.header import BREAKDOWN_KEY

Files = dict[str, bytes]  # a capture's files by their names within it

_LAYOUTS = {layout.name: layout for layout in (SLOT, RING)}
# Kinds of which a few say as much as all; of each other kind, all records are kept.
_PLENTIFUL: dict[str, Collection[int]] = {
    "slot": {SlotKind.RANGE, SlotKind.RUSAGE, SlotKind.IMPORT, SlotKind.DLOPEN, SlotKind.SAMPLE, SlotKind.COUNTER},
    "ring": {RingType.FAULT, RingType.SYSCALL, RingType.FOLD, RingType.SWITCH, RingType.WAKING, RingType.MALLOC},
}
_PLENTY = 200
_MAX_LOG_BYTES = 250_000

NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = (
    "",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "\x9b31m\u202eevil\u2066",
    "../../../../etc/passwd",
    "a\nb\r\n# heading\n<script>alert(1)</script>|`x`",
    "\ud800",
    "\0",
    "%s{0}{x}",
    "A" * 70_000,
    "[bold red]markup[/]",
)
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        -1,
        -(2**70),
        2**70,
        1e308,
        -0.5,
        float("nan"),
        float("inf"),
        [],
        {},
        [None],
        [[]],
        {"": None},
    ),
    *NUMBERS,
    *TEXTS,
)


def thin(log: bytes) -> bytes:
    """Return a raw log with at most some 200 records of each plentiful kind, so that a case takes a moment."""
    header = json.loads(log[:LOST_OFFSET].rstrip(b"\0"))
    layout = _LAYOUTS.get(header["layout"])
    if layout is None:
        return log[: HEADER_BYTES + _MAX_LOG_BYTES]
    size = layout.record_bytes()
    kind_at = struct.calcsize("<" + "".join(code for _, code in layout.fields[: _kind_field(layout.name)]))
    records = [log[at : at + size] for at in range(HEADER_BYTES, len(log) - size + 1, size)]
    kinds = [int.from_bytes(record[kind_at : kind_at + 2], "little") for record in records]
    plentiful = _PLENTIFUL[layout.name]
    steps = {kind: max(1, kinds.count(kind) // _PLENTY) for kind in plentiful}
    kept = [record for n, (record, kind) in enumerate(zip(records, kinds, strict=True)) if not n % steps.get(kind, 1)]
    return (log[:HEADER_BYTES] + b"".join(kept))[: HEADER_BYTES + _MAX_LOG_BYTES]


def _kind_field(layout: str) -> int:
    return 2 if layout == "ring" else len(SLOT.fields) - 1


def damage_capture(files: Files, chance: random.Random) -> Files:
    """Return a capture with one to three of its files damaged."""
    damaged = dict(files)
    for _ in range(chance.choice((1, 1, 2, 3))):
        name = chance.choice(sorted(damaged))
        damage = damage_json if name.endswith(".json") else damage_log
        content = chance.choices([damage, damage_bytes, lambda *_: b""], [12, 2, 0.3])[0](damaged[name], chance)
        if chance.random() < 0.05:
            name = f"raw/{chance.choice(('x', 'ebpf.9', 'ranges.-1', 'x' * 200))}.bin"
        damaged[name] = content
    return damaged


def damage_log(log: bytes, chance: random.Random) -> bytes:
    """Damage a raw log's header, or the fields, the order or the number of its records."""
    if len(log) < HEADER_BYTES:
        return log
    if chance.random() < 0.25:
        line = damage_json(log[:LOST_OFFSET].rstrip(b"\0"), chance)[:LOST_OFFSET]
        return line.ljust(LOST_OFFSET, b"\0") + log[LOST_OFFSET:]
    size = next((n for name, n in _SIZES.items() if name in log[:LOST_OFFSET]), 8)
    records = [log[at : at + size] for at in range(HEADER_BYTES, len(log), size)]
    for _ in range(chance.choice((1, 3, 30))):
        if records:
            chance.choice(_RECORD_DAMAGES)(records, chance)
    return log[:HEADER_BYTES] + b"".join(records)


_SIZES = {f'"layout":"{name}"'.encode(): layout.record_bytes() for name, layout in _LAYOUTS.items()}


def _set_field(records: list[bytes], chance: random.Random) -> None:
    """Give one field of some records an extreme value."""
    width = chance.choice((1, 2, 4, 8))
    at = chance.randrange(0, max(1, len(records[0]) - width + 1), width)
    value = (chance.choice(NUMBERS) & (1 << 8 * width) - 1).to_bytes(width, "little")
    first = chance.randrange(len(records))
    for n in range(first, min(len(records), first + chance.choice((1, 1, 10, 5000)))):
        records[n] = records[n][:at] + value + records[n][at + width :]


def _flip_bit(records: list[bytes], chance: random.Random) -> None:
    n = chance.randrange(len(records))
    records[n] = damage_bytes(records[n], chance)


def _repeat(records: list[bytes], chance: random.Random) -> None:
    records.insert(chance.randrange(len(records)), chance.choice(records))


def _remove(records: list[bytes], chance: random.Random) -> None:
    first = chance.randrange(len(records))
    del records[first : first + chance.choice((1, 10, 1000))]


def _shuffle(records: list[bytes], chance: random.Random) -> None:
    chance.shuffle(records)


def _cut(records: list[bytes], chance: random.Random) -> None:
    records[-1] = records[-1][: chance.randrange(len(records[-1]) + 1)]


def _write_text(records: list[bytes], chance: random.Random) -> None:
    """Put hostile text over the first bytes of a record."""
    n = chance.randrange(len(records))
    text = chance.choice(TEXTS).encode("utf-8", "surrogatepass")[: len(records[n])]
    records[n] = text + records[n][len(text) :]


_RECORD_DAMAGES: tuple[Callable[[list[bytes], random.Random], None], ...] = (
    *(_set_field, _set_field, _set_field, _flip_bit, _repeat, _remove, _shuffle, _cut, _write_text),
)


def damage_bytes(content: bytes, chance: random.Random) -> bytes:
    """Overwrite, cut, repeat or remove bytes, whatever they mean."""
    if not content:
        return chance.randbytes(16)
    at = chance.randrange(len(content))
    until = min(len(content), at + chance.choice((1, 1, 1, 4, 8, 64, 4096)))
    return chance.choice(
        (
            content[:at] + chance.randbytes(until - at) + content[until:],
            content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :],
            content[:at],
            content[:until] + content[at:],
            content[:at] + content[until:],
        )
    )


def damage_json(content: bytes, chance: random.Random) -> bytes:
    """Replace, remove, rename or repeat values of a JSON document, at random or near its root; seldom its bytes."""
    if chance.random() < 0.08:
        return chance.choice((b"[" * 200_000, b"9" * 20_000, b"{}", b"null", damage_bytes(content, chance)))
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):  # it was damaged before
        return damage_bytes(content, chance)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        document = _damage_value(document, chance)
    return json.dumps(document).encode()


def _damage_value(document: Any, chance: random.Random) -> Any:
    """Walk down at random and change what is there."""
    if not document or not isinstance(document, (dict, list)) or chance.random() < 0.1:
        return copy.deepcopy(chance.choice(VALUES))
    key = chance.choice(sorted(document)) if isinstance(document, dict) else chance.randrange(len(document))
    action = chance.random()
    if action < 0.08:
        del document[key]
    elif action < 0.12 and isinstance(document, dict):
        document[chance.choice(TEXTS)[:2000]] = document[key]
    elif action < 0.15 and isinstance(document, list):
        document *= 2
    else:
        document[key] = _damage_value(document[key], chance)
    return document


def damage_trace(trace: bytes, chance: random.Random) -> bytes:
    """Damage a trace: its bytes near the front, or the breakdown that it carries."""
    if chance.random() < 0.25:
        return damage_bytes(trace[:100_000], chance) + trace[100_000:]
    document = pb.Trace.FromString(trace)
    for packet in document.packet[:8]:
        for entry in packet.chrome_events.metadata:
            if entry.name == BREAKDOWN_KEY:
                entry.string_value = damage_json(entry.string_value.encode(), chance).decode("utf-8", "replace")
    content: bytes = document.SerializeToString()
    return content


def zip_up(content: bytes, chance: random.Random) -> bytes:
    """Gzip a document, and sometimes damage that."""
    packed = gzip.compress(content, 1)
    return damage_bytes(packed, chance) if chance.random() < 0.5 else packed
