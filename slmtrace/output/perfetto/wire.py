"""Encode tables of protobuf messages with numpy: one message shape, one row a message.

Every varint column is padded to the width of its largest value (parsers accept non-minimal varints), so that all rows
are equally long and a table is one byte matrix, filled column by column without a Python loop over rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...model.events import Bytes, Ints

_VARINT, _FIXED64, _LENGTH_DELIMITED = 0, 1, 2
_ROWS_PER_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Column:
    """One varying value: `width` bytes of padded varint, or eight fixed bytes."""

    values: NDArray[np.uint64]
    width: int
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
    values = np.ascontiguousarray(value, dtype=np.int64).view(np.uint64)
    return [tag, Column(values, _varint_width(int(values.max(initial=0))))]


def fixed64(field: int, values: Ints) -> Parts:
    """Describe a fixed64 field."""
    tag = encode_varint(field << 3 | _FIXED64)
    return [tag, Column(np.ascontiguousarray(values, dtype=np.int64).view(np.uint64), 8, is_fixed=True)]


def message(field: int, *fields: Parts) -> Parts:
    """Describe a nested message of these fields."""
    inner = [part for parts in fields for part in parts]
    return [encode_varint(field << 3 | _LENGTH_DELIMITED) + encode_varint(row_bytes(inner)), *inner]


def blob(field: int, content: bytes) -> bytes:
    """Encode one length-delimited field."""
    return encode_varint(field << 3 | _LENGTH_DELIMITED) + encode_varint(len(content)) + content


def row_bytes(parts: Parts) -> int:
    """Return the length of every row."""
    return sum(part.width if isinstance(part, Column) else len(part) for part in parts)


def encode(parts: Parts, n_rows: int) -> Iterator[bytes]:
    """Encode the rows, in chunks that bound the memory."""
    for low in range(0, n_rows, _ROWS_PER_CHUNK):
        yield _encode_chunk(parts, low, min(low + _ROWS_PER_CHUNK, n_rows)).tobytes()


def _encode_chunk(parts: Parts, low: int, high: int) -> Bytes:
    matrix = np.empty((high - low, row_bytes(parts)), np.uint8)
    offset = 0
    for part in parts:
        if isinstance(part, bytes):
            matrix[:, offset : offset + len(part)] = np.frombuffer(part, np.uint8)
            offset += len(part)
        else:
            _fill(matrix, offset, part, part.values[low:high])
            offset += part.width
    return matrix


def _fill(matrix: Bytes, offset: int, column: Column, values: NDArray[np.uint64]) -> None:
    if column.is_fixed:
        matrix[:, offset : offset + 8] = values.astype("<u8").view(np.uint8).reshape(len(values), 8)
        return
    for place in range(column.width):
        octet = (values >> np.uint64(7 * place)).astype(np.uint8) & np.uint8(0x7F)
        is_last = place == column.width - 1
        matrix[:, offset + place] = octet if is_last else octet | np.uint8(0x80)


def _varint_width(largest: int) -> int:
    return max(1, -(-largest.bit_length() // 7))
