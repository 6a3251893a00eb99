"""Compiled programs: their instructions and the layout of the maps that they use, as text that can be kept."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_INSTRUCTION_BYTES = 8
_LOAD_64 = 0x18  # BPF_LD | BPF_IMM | BPF_DW, of two instructions' length
_PSEUDO_MAP_FD = 1


class MapLayout(NamedTuple):
    """What the kernel must know to create a map; `kind` is of enum bpf_map_type."""

    name: str
    kind: int
    key_bytes: int
    value_bytes: int
    max_entries: int
    flags: int


class Bytecode(NamedTuple):
    """The functions of one program text. An instruction that loads a map has the map's place in `maps`."""

    maps: tuple[MapLayout, ...]
    functions: dict[str, bytes]

    def encode(self) -> bytes:
        """Return it as JSON."""
        functions = {name: base64.b64encode(code).decode() for name, code in self.functions.items()}
        return json.dumps({"maps": self.maps, "functions": functions}).encode()


def decode_bytecode(text: bytes) -> Bytecode:
    """Read what Bytecode.encode() wrote."""
    content = json.loads(text)
    functions = {name: base64.b64decode(code) for name, code in content["functions"].items()}
    return Bytecode(tuple(MapLayout(*layout) for layout in content["maps"]), functions)


def with_maps(code: bytes, number_by_number: Sequence[int] | dict[int, int]) -> bytes:
    """Return the instructions with the number of each map replaced: a place by a descriptor, or the reverse."""
    changed = bytearray(code)
    for at in _map_loads(code):
        (number,) = struct.unpack_from("<i", code, at + 4)
        struct.pack_into("<i", changed, at + 4, number_by_number[number])
    return bytes(changed)


def _map_loads(code: bytes) -> Iterator[int]:
    at = 0
    while at < len(code):
        is_long = code[at] == _LOAD_64
        if is_long and code[at + 1] >> 4 == _PSEUDO_MAP_FD:
            yield at
        at += _INSTRUCTION_BYTES * (2 if is_long else 1)
