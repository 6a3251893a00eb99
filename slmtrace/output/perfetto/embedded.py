"""Read what is embedded in a trace: its breakdown, and facts about it. Nothing in a file from anywhere is trusted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ...errors import CaptureError
from ...model.report import SCHEMA, Report
from ..json_ import check_conservation
from .header import BREAKDOWN_KEY

MAX_BREAKDOWN_BYTES = 64 << 20
# The writer puts it into the third packet.
_MAX_PACKETS = 64
_PACKET_TAG = b"\x0a"
# TracePacket.chrome_events, ChromeEventBundle.metadata, ChromeMetadata.name and .string_value
_CHROME_EVENTS, _METADATA, _NAME, _STRING_VALUE = 5, 2, 1, 2
_HINT = "name a capture directory, or a .pftrace that slmtrace wrote"


def read_embedded_breakdown(path: Path) -> dict[str, Any]:
    """Return breakdown.json's content from a trace that `write_perfetto` wrote.

    Raises:
        CaptureError: the file cannot be read, is no trace, or has no breakdown in it.
    """
    text = read_embedded_texts(path)[BREAKDOWN_KEY]
    try:
        data = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise CaptureError(f"{path}: its breakdown is damaged: {str(error)[:200]}", hint=_HINT) from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise CaptureError(
            f"{path}: its breakdown has schema {str(found)[:80]!r}, this build reads {SCHEMA!r}",
            hint="read it with the slmtrace that wrote it",
        )
    return data


def read_embedded_report(path: Path) -> Report:
    """Return the report that a trace carries.

    Raises:
        CaptureError: the trace cannot be read, or its breakdown is missing, damaged, or does not add up.
    """
    try:
        report = Report.from_json(read_embedded_breakdown(path))
        if complaints := check_conservation(report.to_json()):
            raise ValueError(complaints[0])
        return report
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CaptureError(
            f"{path}: its breakdown is damaged: {str(error)[:200]}", hint="report the capture that it was made from"
        ) from error


def read_embedded_texts(path: Path) -> dict[str, bytes]:
    """Return the texts that stand beside the breakdown, and it itself, by their keys.

    Raises:
        CaptureError: the file cannot be read, is no trace, or has no breakdown in it.
    """
    try:
        with path.open("rb") as file:
            texts = _find_texts(file)
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}", hint="check the path and its permissions") from error
    except ValueError as error:
        raise CaptureError(f"{path} is not a Perfetto trace: {error}", hint=_HINT) from error
    if texts is None:
        raise CaptureError(f"{path} has no slmtrace breakdown in it", hint=_HINT)
    return texts


def _find_texts(file: BinaryIO) -> dict[str, bytes] | None:
    for _ in range(_MAX_PACKETS):
        tag = file.read(1)
        if not tag:
            return None
        if tag != _PACKET_TAG:
            raise ValueError("no packet where one should begin")
        size = _read_size(file)
        if size > MAX_BREAKDOWN_BYTES:
            raise ValueError(f"a packet of {size} bytes among the first")
        packet = file.read(size)
        if len(packet) < size:
            raise ValueError("cut inside a packet")
        texts = _texts_of_packet(packet)
        if BREAKDOWN_KEY in texts:
            return texts
    return None


def _texts_of_packet(packet: bytes) -> dict[str, bytes]:
    texts: dict[str, bytes] = {}
    for number, bundle in _messages(packet):
        if number != _CHROME_EVENTS:
            continue
        for number_within, metadata in _messages(bundle):
            fields = dict(_messages(metadata)) if number_within == _METADATA else {}
            if _NAME in fields:
                texts[fields[_NAME].decode("utf-8", "replace")] = fields.get(_STRING_VALUE, b"")
    return texts


def _messages(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the length-delimited fields of a message, and step over the others.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        wire_type = key & 7
        if wire_type == 0:
            _, position = _varint(content, position)
        elif wire_type in (1, 5):
            position += 8 if wire_type == 1 else 4
        elif wire_type == 2:
            size, position = _varint(content, position)
            if position + size > len(content):
                raise ValueError("a field longer than its message")
            yield key >> 3, content[position : position + size]
            position += size
        else:
            raise ValueError(f"a field of wire type {wire_type}")


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            raise ValueError("cut inside a number")
        octet = content[position]
        position += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")


def _read_size(file: BinaryIO) -> int:
    encoded = b""
    while len(encoded) < 10:
        octet = file.read(1)
        encoded += octet
        if not octet or octet[0] < 0x80:
            break
    return _varint(encoded, 0)[0]


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
