"""Encode tables of protobuf messages with numpy: one message shape, one row a message.

A table is laid out as a byte matrix, filled column by column without a Python loop over rows. Varints have as many
columns as their largest value needs; the octets that a row does not need are left out at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...model.events import Bytes, Ints

_VARINT, _FIXED64, _LENGTH_DELIMITED = 0, 1, 2
_ROWS_PER_CHUNK = 1 << 14


@dataclass(frozen=True, slots=True)
class Column:
    """One varying value: a varint of at most `width` octets, or eight fixed octets."""

    values: NDArray[np.uint64]
    width: int
    widths: Bytes | None = None  # of each row, None: all are `width`
    is_fixed: bool = False


Parts = list["bytes | Column"]


def encode_varint(value: int) -> bytes:
    """Encode one non-negative integer as a minimal varint."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def integer(field: int, value: int | Ints) -> Parts:
    """Describe an integer field: the same value in all rows, or one a row (negative ones take ten bytes)."""
    tag = encode_varint(field << 3 | _VARINT)
    if isinstance(value, int):
        return [tag + encode_varint(value)]
    return [tag, _varints(value)]


def fixed64(field: int, values: Ints) -> Parts:
    """Describe a fixed64 field."""
    tag = encode_varint(field << 3 | _FIXED64)
    unsigned = np.ascontiguousarray(values, dtype=np.int64).view(np.uint64)
    return [tag, Column(unsigned, 8, is_fixed=True)]


def message(field: int, *fields: Parts) -> Parts:
    """Describe a nested message of these fields."""
    inner = [part for parts in fields for part in parts]
    tag = encode_varint(field << 3 | _LENGTH_DELIMITED)
    size, sizes = 0, None
    for part in inner:
        if isinstance(part, bytes):
            size += len(part)
        elif part.widths is None:
            size += part.width
        else:
            sizes = part.widths.astype(np.int64) if sizes is None else sizes + part.widths
    return [tag + encode_varint(size), *inner] if sizes is None else [tag, _varints(sizes + size), *inner]


def blob(field: int, content: bytes) -> bytes:
    """Encode one length-delimited field."""
    return encode_varint(field << 3 | _LENGTH_DELIMITED) + encode_varint(len(content)) + content


def encode(parts: Parts, n_rows: int) -> Iterator[bytes]:
    """Encode the rows, in chunks that bound the memory."""
    for low in range(0, n_rows, _ROWS_PER_CHUNK):
        yield _encode_chunk(parts, slice(low, min(low + _ROWS_PER_CHUNK, n_rows))).tobytes()


def _encode_chunk(parts: Parts, rows: slice) -> Bytes:
    template = b"".join(part if isinstance(part, bytes) else bytes(part.width) for part in parts)
    shape = rows.stop - rows.start, len(template)
    matrix, is_used = np.empty(shape, np.uint8), np.ones(shape, np.bool_)
    matrix[:] = np.frombuffer(template, np.uint8)
    offset = 0
    for part in parts:
        if isinstance(part, bytes):
            offset += len(part)
        else:
            octets = slice(offset, offset + part.width)
            _fill(matrix[:, octets], is_used[:, octets], part, rows)
            offset += part.width
    return matrix[is_used]


def _fill(octets: Bytes, is_used: NDArray[np.bool_], column: Column, rows: slice) -> None:
    values = column.values[rows]
    if column.is_fixed:
        octets[:] = values.astype("<u8").view(np.uint8).reshape(octets.shape)
        return
    widths = np.uint8(column.width) if column.widths is None else column.widths[rows]
    for place in range(column.width):
        octet = (values >> np.uint64(7 * place)).astype(np.uint8) & np.uint8(0x7F)
        octets[:, place] = octet | np.uint8(0x80) * (widths > place + 1)
        if column.widths is not None:
            is_used[:, place] = widths > place


def _varints(values: Ints) -> Column:
    unsigned = np.ascontiguousarray(values, dtype=np.int64).view(np.uint64)
    if not len(unsigned):
        return Column(unsigned, 1)
    shortest, width = _varint_width(int(unsigned.min())), _varint_width(int(unsigned.max()))
    if shortest == width:
        return Column(unsigned, width)
    widths = np.full(len(unsigned), shortest, np.uint8)
    for longer in range(shortest, width):
        widths += unsigned >> np.uint64(7 * longer) != 0
    return Column(unsigned, width, widths)


def _varint_width(largest: int) -> int:
    return max(1, -(-largest.bit_length() // 7))
