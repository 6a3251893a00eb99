"""Where to probe a library of a running process: which libraries it has mapped, and where their functions begin."""

from __future__ import annotations

import platform
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .elf import dynamic_symbols, file_offset

ALLOCATORS = ("libc.so", "libc-2.", "libjemalloc", "libtcmalloc", "libmimalloc")
CUDA_DRIVERS = ("libcuda.so",)
_MAX_PROLOGUE_BYTES = 48


class Site(NamedTuple):
    """A place in a file to probe; a slow one makes the kernel single-step each call (10 us and more)."""

    offset: int
    is_slow: bool


def mapped_libraries(pid: int, prefixes: tuple[str, ...]) -> list[str]:
    """Return the libraries that a process has mapped whose names begin so, as paths that we can open."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    paths = {fields[5] for fields in (line.split(None, 5) for line in lines) if len(fields) == 6}
    ours = sorted(path for path in paths if Path(path).name.startswith(prefixes))
    # Through the process's own root, for it may live in a container.
    return [path if Path(path).exists() else f"/proc/{pid}/root{path}" for path in ours]


def find_sites(path: str, is_wanted: Callable[[str], bool]) -> dict[str, Site]:
    """Return where to probe each wanted function that a library defines; of several names of one, the first.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a 64-bit ELF file.
    """
    # Not mapped: to whoever truncates it meanwhile, a privileged process would fall victim.
    image = Path(path).read_bytes()
    try:
        symbols = dynamic_symbols(image)
        by_address = {symbols[name].address: name for name in sorted(filter(is_wanted, symbols), reverse=True)}
        return {name: _site(image, address) for address, name in by_address.items()}
    except (struct.error, IndexError) as error:
        raise ValueError(f"{path} is damaged") from error


def _site(image: bytes, address: int) -> Site:
    """Move a probe to the first instruction that the kernel emulates instead of single-stepping it.

    Those are push, nop, jump and call (arch/x86/kernel/uprobes.c). Only instructions that leave the stack and the
    arguments alone may be passed.
    """
    start = file_offset(image, address)
    if platform.machine() != "x86_64":
        return Site(start, False)
    code = image[start : start + _MAX_PROLOGUE_BYTES]
    at = 0
    while at < len(code) - 8:
        rest = code[at:]
        if _is_emulated(rest):
            return Site(start + at, False)
        n_bytes = _passable_bytes(rest)
        if not n_bytes:
            break
        at += n_bytes
    return Site(start, True)


def _is_emulated(code: bytes) -> bool:
    is_push = 0x50 <= code[0] <= 0x57 or (code[0] == 0x41 and 0x50 <= code[1] <= 0x57)
    return is_push or code[0] in (0x90, 0xE8, 0xE9, 0xEB)  # nop, call, jmp


def _passable_bytes(code: bytes) -> int:
    """Return the length of an instruction that may be passed, or 0."""
    if code[:4] == b"\xf3\x0f\x1e\xfa":  # endbr64
        return 4
    if code[:3] == b"\x48\x85\xff":  # test %rdi,%rdi
        return 3
    if code[:2] == b"\x0f\x84":  # je, as in free(NULL)
        return 6
    if code[0] == 0x74:  # je, short
        return 2
    # mov %reg,%reg, unless it changes an argument (%rdi, %rsi)
    if code[:2] in (b"\x48\x89", b"\x49\x89") and code[2] >= 0xC0 and (code[0] == 0x49 or code[2] & 7 not in (4, 6, 7)):
        return 3
    return 0
