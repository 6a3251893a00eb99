"""What an ELF file says of itself: its dynamic symbols, and where its first segment wants to be."""

from __future__ import annotations

import struct
from typing import NamedTuple

_SHT_DYNSYM = 11
_PT_LOAD = 1


class Symbol(NamedTuple):
    """A symbol that a file defines."""

    address: int
    size_bytes: int


def dynamic_symbols(image: bytes) -> dict[str, Symbol]:
    """Return the dynamic symbols that a file defines, by name.

    Raises:
        ValueError: it is not a 64-bit ELF file.
        struct.error, IndexError: it is damaged.
    """
    if image[:5] != b"\x7fELF\x02":
        raise ValueError("not a 64-bit ELF file")
    (table_at,) = struct.unpack_from("<Q", image, 0x28)
    entry_bytes, n_entries = struct.unpack_from("<HH", image, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, table_at + index * entry_bytes) for index in range(n_entries)]
    found: dict[str, Symbol] = {}
    for section in (section for section in sections if section[1] == _SHT_DYNSYM):
        strings_at = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], 24):
            name_at, _, _, defined_in, address, size_bytes = struct.unpack_from("<IBBHQQ", image, at)
            if defined_in and address:
                start = strings_at + name_at
                found[image[start : image.index(b"\0", start)].decode()] = Symbol(address, size_bytes)
    return found


def file_offset(image: bytes, address: int) -> int:
    """Return where in the file the byte of an address stands.

    Raises:
        ValueError: no segment holds it.
    """
    for offset, start, n_bytes in _segments(image):
        if start <= address < start + n_bytes:
            return address - start + offset
    raise ValueError("symbol outside the file")


def first_address(image: bytes) -> int:
    """Return the address of the file's first byte, as its symbols count: 0 where the loader may choose the place."""
    return next((start for offset, start, _ in _segments(image) if offset == 0), 0)


def _segments(image: bytes) -> list[tuple[int, int, int]]:
    (table_at,) = struct.unpack_from("<Q", image, 0x20)
    entry_bytes, n_entries = struct.unpack_from("<HH", image, 0x36)
    headers = [struct.unpack_from("<IIQQQQ", image, table_at + index * entry_bytes) for index in range(n_entries)]
    return [(offset, start, n_bytes) for kind, _, offset, start, _, n_bytes in headers if kind == _PT_LOAD]
