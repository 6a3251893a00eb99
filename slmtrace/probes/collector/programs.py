"""Compile the groups that can run as one program text, load and attach each program, and say how each fared."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from . import kept, kernel
from .bytecode import Bytecode, with_maps
from .compiler import bcc_version, compile_apart
from .driver import Driver
from .groups import CLOCK, GROUP_NAMES, RAW, TRACEPOINT, Group, Program
from .maps import Map, cpus
from .tracefs import find_tracefs, tracepoint_number

MAX_THREADS = 8192
MAX_FILES = 8192
MAX_PROGRAMS = 1024


class GroupStatus(NamedTuple):
    """How a group fared: status is ok, partial or unavailable."""

    status: str
    reason: str
    attached: tuple[str, ...]


class Programs:
    """The programs of all groups that can run: compiled, loaded, and attached.

    Raises:
        RuntimeError: there is no bcc, or the text does not compile.
        OSError: the kernel refuses the maps.
    """

    def __init__(self, source_dir: Path, groups: list[Group], macros: dict[str, int]) -> None:
        able = [group for group in groups if not group.reason]
        flags = {**macros, **{f"WITH_{group.name.upper()}": 1 for group in able}}
        for group in able:
            flags.update(group.macros)
        text = _program_text(source_dir, [group.name for group in able])
        bytecode, self.is_kept = _compiled(source_dir, text, [f"-D{name}={value}" for name, value in flags.items()])
        self._maps = {layout.name: Map(layout) for layout in bytecode.maps}
        self._descriptors = [found.descriptor for found in self._maps.values()]
        self._functions = bytecode.functions
        self._loaded: dict[tuple[str, int], int] = {}  # descriptors by function and attach type
        self._attached: list[int] = []
        self.statuses = {group.name: self._attach_group(group) for group in groups}

    def __getitem__(self, name: str) -> Map:
        return self._maps[name]

    def __contains__(self, name: str) -> bool:
        return name in self._maps

    def _attach_group(self, group: Group) -> GroupStatus:
        if group.reason:
            return GroupStatus("unavailable", group.reason, ())
        attached, failures, is_broken = [], list(group.limits), False
        for program in group.programs:
            failure = self._attach(program)
            if failure:
                failures.append(failure)
                is_broken = is_broken or not program.is_optional
            else:
                attached.append(program.target)
        status = "unavailable" if is_broken else "partial" if failures else "ok"
        return GroupStatus(status, "; ".join(failures), tuple(attached))

    def _attach(self, program: Program) -> str:
        """Load and attach a program; return what went wrong."""
        function, target = program.function, program.target
        try:
            if program.kind == RAW:
                loaded = self._load(function, kernel.RAW_TRACEPOINT)
                self._attached.append(kernel.attach_raw_tracepoint(target, loaded))
            elif program.kind == TRACEPOINT:
                loaded = self._load(function, kernel.TRACEPOINT)
                self._attached.append(kernel.attach_tracepoint(tracepoint_number(find_tracefs(), target), loaded))
            else:
                loaded = self._load(function, kernel.PERF_EVENT)
                attach = kernel.attach_clock if program.kind == CLOCK else kernel.attach_software_event
                for cpu in cpus("online"):
                    self._attached.append(attach(int(target), cpu, loaded))
        except OSError as error:
            return f"{function} on {target}: {explain_errno(error.errno or 0, str(error))}"
        return ""

    def _load(self, function: str, kind: int, attach_type: int = 0) -> int:
        key = function, attach_type
        if key not in self._loaded:
            code = with_maps(self._functions[function], self._descriptors)
            self._loaded[key] = kernel.load_program(function, kind, code, attach_type)
        return self._loaded[key]

    def attach_functions(self, path: str, offsets: Mapping[int, int], entry: str, leave: str) -> str:
        """Attach programs to the entries and the returns of user functions, given by their places in a file.

        The programs know a function by its key in `offsets`. Return what went wrong.
        """
        try:
            for function, is_return in ((leave, True), (entry, False)):
                load = partial(self._load, function, kernel.KPROBE)
                self._attached += kernel.attach_uprobes(path, offsets, is_return, load)
        except OSError as error:
            return f"{entry} in {path}: {explain_errno(error.errno or 0, str(error))}"
        return ""

    def attach_driver(self, driver: Driver) -> None:
        """Attach the programs of the group cuda to the functions of the CUDA driver, and say how that fared."""
        attached, failures = [], list(driver.troubles)
        for library, offsets in driver.offsets().items():
            failure = self.attach_functions(library, offsets, "on_driver_call", "on_driver_return")
            if failure:
                failures.append(failure)
            else:
                attached.append(library)
        status = "unavailable" if not attached else "partial" if failures else "ok"
        self.statuses["cuda"] = GroupStatus(status, "; ".join(failures), tuple(attached))

    def silence(self) -> None:
        """Let no program emit or count any more."""
        self._maps["is_over"].set(0, (1).to_bytes(4, sys.byteorder))
        kernel.wait_for_programs()

    def detach(self) -> None:
        """Take all programs away; the maps stay readable."""
        # Each close waits for an RCU grace period; side by side they share it.
        with ThreadPoolExecutor(max(1, len(self._attached))) as pool:
            list(pool.map(os.close, self._attached))
        self._attached.clear()

    def self_time(self) -> dict[str, tuple[int, int, int]]:
        """Return (ns, runs, missed runs) by function since statistics were switched on."""
        # Of a function that was loaded for two attach types, the second is the one that runs.
        return {function: _run_statistics(descriptor) for (function, _), descriptor in self._loaded.items()}


def _compiled(source_dir: Path, text: str, flags: list[str]) -> tuple[Bytecode, bool]:
    """Return the compiled text, and whether an earlier run had kept it."""
    system = (platform.machine(), platform.release(), bcc_version(), kept.FORMAT)
    key = hashlib.sha256("\0".join((text, *flags, *system)).encode()).hexdigest()
    bytecode = kept.find(key)
    if bytecode is not None:
        return bytecode, True
    bytecode = compile_apart(text, ["-w", *flags], source_dir)
    kept.keep(key, bytecode)
    return bytecode, False


def explain_errno(number: int, otherwise: str) -> str:
    """Say what an errno of the bpf or perf system calls means here."""
    if not number:
        return otherwise
    text = f"{errno.errorcode.get(number, number)} ({os.strerror(number)})"
    if number != errno.EPERM:
        return text
    try:
        modules = Path("/sys/kernel/security/lsm").read_text().strip()
    except OSError:
        modules = "unknown"
    return f"{text}: a security policy of this host refuses it (active security modules: {modules})"


def _program_text(source_dir: Path, groups: list[str]) -> str:
    names = ["slmtrace.h", "common.h", *(f"{name}.bpf.c" for name in GROUP_NAMES if name in groups)]
    return "\n".join((source_dir / name).read_text() for name in names)


def _run_statistics(descriptor: int) -> tuple[int, int, int]:
    told = kernel.describe(descriptor)
    return tuple(int(told.get(name, 0)) for name in ("run_time_ns", "run_cnt", "recursion_misses"))  # type: ignore
