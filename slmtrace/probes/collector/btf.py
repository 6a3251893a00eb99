"""The kernel's types, read from its BTF: where fields lie, and which raw tracepoints exist.

Kernel headers, where they are installed at all, may be another kernel's: only BTF tells the truth
(Documentation/bpf/btf.rst).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_MAGIC = 0xEB9F
_PTR, _STRUCT, _UNION, _TYPEDEF, _FUNC_PROTO = 2, 4, 5, 8, 13
# Bytes that follow a type of each kind: fixed, and per member.
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_PER_MEMBER = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
_TRACEPOINT_PREFIX = "btf_trace_"


class _Type(NamedTuple):
    kind: int
    is_bitfield: bool  # kind_flag: member offsets carry a bit size in their top byte
    n_members: int
    target: int  # the type that it refers to, or a size
    members_at: int
    name_at: int


class Btf:
    """The types of one BTF blob.

    Raises:
        ValueError: it is not BTF.
    """

    def __init__(self, data: bytes) -> None:
        if len(data) < 24 or struct.unpack_from("<H", data)[0] != _MAGIC:
            raise ValueError("not BTF")
        header_bytes, type_at, type_bytes, string_at, string_bytes = struct.unpack_from("<5I", data, 4)
        self._data = data
        self._strings_at = header_bytes + string_at
        self._strings_end = self._strings_at + string_bytes
        self._types = self._read_types(header_bytes + type_at, type_bytes)

    def _read_types(self, position: int, n_bytes: int) -> list[_Type]:
        types = [_Type(0, False, 0, 0, 0, self._strings_at)]  # type 0 is void
        unpack = struct.Struct("<3I").unpack_from
        end = position + n_bytes
        while position < end:
            name, info, target = unpack(self._data, position)
            kind, n_members = info >> 24 & 0x1F, info & 0xFFFF
            position += 12
            types.append(_Type(kind, bool(info >> 31), n_members, target, position, self._strings_at + name))
            position += _FIXED.get(kind, 0) + _PER_MEMBER.get(kind, 0) * n_members
        return types

    def _name(self, position: int) -> str:
        return self._data[position : self._data.index(b"\0", position)].decode()

    def member_bits(self, struct_name: str) -> dict[str, int]:
        """Return the offsets in bits of a struct's members by name, those of anonymous members among them."""
        wanted = self._positions_of(struct_name)
        for entry in self._types:
            if entry.kind == _STRUCT and entry.name_at in wanted and entry.n_members:
                return self._members(entry, 0)
        return {}

    def _members(self, entry: _Type, base_bits: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for index in range(entry.n_members):
            name, target, offset = struct.unpack_from("<3I", self._data, entry.members_at + 12 * index)
            bits = base_bits + (offset & 0xFFFFFF if entry.is_bitfield else offset)
            if name:
                found[self._name(self._strings_at + name)] = bits
            elif self._types[target].kind in (_STRUCT, _UNION):
                found.update(self._members(self._types[target], bits))
        return found

    def tracepoint_arguments(self, name: str) -> int | None:
        """Return how many arguments a raw tracepoint has, or None if this kernel has no such tracepoint."""
        wanted = self._positions_of(_TRACEPOINT_PREFIX + name)
        for entry in self._types:
            if entry.kind == _TYPEDEF and entry.name_at in wanted:
                pointed = self._types[entry.target]
                prototype = self._types[pointed.target] if pointed.kind == _PTR else pointed
                # The first parameter is the tracepoint's own data.
                return prototype.n_members - 1 if prototype.kind == _FUNC_PROTO else None
        return None

    def _positions_of(self, name: str) -> list[int]:
        """Return where a name stands in the string section; more than once if the linker did not merge it."""
        needle = b"\0" + name.encode() + b"\0"
        found = []
        position = self._data.find(needle, self._strings_at, self._strings_end)
        while position >= 0:
            found.append(position + 1)
            position = self._data.find(needle, position + 1, self._strings_end)
        return found


def read_btf(path: Path = VMLINUX) -> Btf:
    """Read the running kernel's BTF.

    Raises:
        OSError: there is none.
        ValueError: it is damaged.
    """
    return Btf(path.read_bytes())
