"""The kernel's types, read from its BTF: where fields lie, and which raw tracepoints exist.

Kernel headers, where they are installed at all, may be another kernel's: only BTF tells the truth
(Documentation/bpf/btf.rst).
"""

from __future__ import annotations

import struct
from pathlib import Path

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_PTR, _STRUCT, _UNION, _TYPEDEF, _FUNC_PROTO = 2, 4, 5, 8, 13
_N_KINDS = 32
# Words of 4 bytes of a type of each kind: its own, beside the three that all have, and each member's.
_OWN_WORDS = [3 + {1: 1, 3: 3, 14: 1, 17: 1}.get(kind, 0) for kind in range(_N_KINDS)]
_MEMBER_WORDS = [{4: 3, 5: 3, 6: 2, 13: 2, 15: 3, 19: 3}.get(kind, 0) for kind in range(_N_KINDS)]
_MEMBER_OFFSET_BITS = 0xFFFFFF  # of a struct that has bit fields: above them is the field's size
_TRACEPOINT_PREFIX = "btf_trace_"


class Btf:
    """The types of one BTF blob.

    Raises:
        ValueError: it is not BTF.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < 24 or struct.unpack_from("<H", data)[0] != _MAGIC:
            raise ValueError("not BTF")
        header_bytes, type_at, type_bytes, string_at, string_bytes = struct.unpack_from("<5I", data, 4)
        self._strings = data[header_bytes + string_at :][:string_bytes]
        # A kernel has more than 100,000 types, so this is read as words and not as objects: name, info, then by kind.
        self._words = memoryview(data)[header_bytes + type_at :][:type_bytes].cast("I")
        self._starts = [0]  # the first word of each type by its number; type 0 is void and has none
        self._structs: dict[int, int] = {}  # the first word by name
        self._typedefs: dict[int, int] = {}
        self._index()

    def _index(self) -> None:
        words, at = self._words, 0
        while at < len(words):
            self._starts.append(at)
            info = words[at + 1]
            kind, n_members = info >> 24 & 0x1F, info & 0xFFFF
            if kind == _STRUCT and n_members:
                self._structs.setdefault(words[at], at)
            elif kind == _TYPEDEF:
                self._typedefs[words[at]] = at
            at += _OWN_WORDS[kind] + _MEMBER_WORDS[kind] * n_members

    def member_bits(self, struct_name: str) -> dict[str, int]:
        """Return the offsets in bits of a struct's members by name, those of anonymous members among them."""
        at = self._find(struct_name, self._structs)
        return {} if at is None else self._members(at, 0)

    def _members(self, at: int, base_bits: int) -> dict[str, int]:
        found: dict[str, int] = {}
        info = self._words[at + 1]
        mask = _MEMBER_OFFSET_BITS if info >> 31 else ~0
        for member in range(at + 3, at + 3 + 3 * (info & 0xFFFF), 3):
            name, target, offset = self._words[member : member + 3]
            bits = base_bits + (offset & mask)
            if name:
                found[self._string(name)] = bits
            elif self._kind(self._starts[target]) in (_STRUCT, _UNION):
                found.update(self._members(self._starts[target], bits))
        return found

    def tracepoint_arguments(self, name: str) -> int | None:
        """Return how many arguments a raw tracepoint has, or None if this kernel has no such tracepoint."""
        at = self._find(_TRACEPOINT_PREFIX + name, self._typedefs)
        if at is None:
            return None
        pointed = self._starts[self._words[at + 2]]
        prototype = self._starts[self._words[pointed + 2]] if self._kind(pointed) == _PTR else pointed
        # The first parameter is the tracepoint's own data.
        return (self._words[prototype + 1] & 0xFFFF) - 1 if self._kind(prototype) == _FUNC_PROTO else None

    def _kind(self, at: int) -> int:
        return self._words[at + 1] >> 24 & 0x1F

    def _string(self, at: int) -> str:
        return self._strings[at : self._strings.index(b"\0", at)].decode()

    def _find(self, name: str, first_word_by_name: dict[int, int]) -> int | None:
        """Return the first word of a type; a name stands in the strings more than once if the linker merged none."""
        needle = b"\0" + name.encode() + b"\0"
        position = self._strings.find(needle)
        while position >= 0:
            if position + 1 in first_word_by_name:
                return first_word_by_name[position + 1]
            position = self._strings.find(needle, position + 1)
        return None


def read_btf(path: Path = VMLINUX) -> Btf:
    """Read the running kernel's BTF.

    Raises:
        OSError: there is none.
        ValueError: it is not BTF.
    """
    return Btf(path.read_bytes())
