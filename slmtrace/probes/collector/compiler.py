"""Compile BPF C with bcc. This is all that bcc is needed for."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

from .bytecode import Bytecode, MapLayout, decode_bytecode, with_maps
from .kernel import describe

_FAILED = b"!"


def bcc_version() -> str:
    """Return what bcc says of its version, without loading it; '' if this interpreter has none."""
    found = importlib.util.find_spec("bcc")
    try:
        return Path(found.origin).with_name("version.py").read_text() if found and found.origin else ""
    except OSError:
        return ""


def compile_apart(text: str, flags: list[str], include: Path) -> Bytecode:
    """Compile in a child process, for the compiler takes much memory and keeps maps of its own open.

    Raises:
        RuntimeError: this interpreter has no bcc, or the text does not compile.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = _compile(text, flags, include).encode()
        except BaseException as error:  # bcc raises nothing narrower, and a child must not go on as its parent
            answer = _FAILED + str(error).encode()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(answer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    if not answer or answer.startswith(_FAILED):
        reason = answer[len(_FAILED) :].decode("utf-8", "replace") or "the compiler died"
        raise RuntimeError(f"the BPF programs do not compile: {reason}")
    return decode_bytecode(answer)


def _compile(text: str, flags: list[str], include: Path) -> Bytecode:
    # Instead of the kernel's headers: see the directory.
    os.environ["BCC_KERNEL_SOURCE"] = str(include)
    from bcc import BPF, lib

    lib.bpf_num_tables.argtypes, lib.bpf_num_tables.restype = [ctypes.c_void_p], ctypes.c_size_t
    lib.bpf_table_name.argtypes, lib.bpf_table_name.restype = [ctypes.c_void_p, ctypes.c_size_t], ctypes.c_char_p
    program = BPF(text=text, cflags=flags)
    module = program.module
    maps = [lib.bpf_table_name(module, number) for number in range(lib.bpf_num_tables(module))]
    functions = [lib.bpf_function_name(module, number) for number in range(lib.bpf_num_functions(module))]
    # The instructions have the descriptors of the maps that bcc has created.
    descriptors = [lib.bpf_table_fd(module, name) for name in maps]
    place_by_descriptor = {descriptor: place for place, descriptor in enumerate(descriptors)}
    return Bytecode(
        tuple(map(_map_layout, maps, descriptors)),
        {name.decode(): with_maps(program.dump_func(name), place_by_descriptor) for name in functions},
    )


def _map_layout(name: bytes, descriptor: int) -> MapLayout:
    told = describe(descriptor)
    kind, key_bytes, value_bytes, max_entries, flags = (
        int(told[field], 0) for field in ("map_type", "key_size", "value_size", "max_entries", "map_flags")
    )
    return MapLayout(name.decode(), kind, key_bytes, value_bytes, max_entries, flags)
