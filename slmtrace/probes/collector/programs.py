"""Compile the groups that can run as one program text, load and attach each program, and say how each fared."""

from __future__ import annotations

import ctypes
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from .groups import GROUP_NAMES, RAW, TRACEPOINT, Group, Program

_SOFTWARE_EVENTS = 1  # PERF_TYPE_SOFTWARE
MAX_THREADS = 8192
MAX_FILES = 8192
MAX_PROGRAMS = 1024


class GroupStatus(NamedTuple):
    """How a group fared: status is ok, partial or unavailable."""

    status: str
    reason: str
    attached: tuple[str, ...]


class Programs:
    """The compiled text and what is attached of it.

    Raises:
        ImportError: this interpreter has no bcc.
        RuntimeError: the text does not compile.
    """

    def __init__(self, source_dir: Path, groups: list[Group], macros: dict[str, int]) -> None:
        # Instead of the kernel's headers: see the directory.
        os.environ["BCC_KERNEL_SOURCE"] = str(source_dir)
        from bcc import BPF

        able = [group for group in groups if not group.reason]
        flags = {**macros, **{f"WITH_{group.name.upper()}": 1 for group in able}}
        for group in able:
            flags.update(group.macros)
        arguments = ["-w", *(f"-D{name}={value}" for name, value in flags.items())]
        try:
            self.bpf = BPF(text=_program_text(source_dir, [group.name for group in able]), cflags=arguments)
        except Exception as error:  # bcc raises nothing narrower
            raise RuntimeError(f"the BPF programs do not compile: {error}") from error
        self.statuses = {group.name: self._attach_group(group) for group in groups}

    def __getitem__(self, table: str) -> Any:
        return self.bpf[table]

    def table(self, name: str) -> Any:
        """Return a map, or None if no group that runs has it."""
        try:
            return self.bpf[name]
        except KeyError:
            return None

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
        ctypes.set_errno(0)
        try:
            if program.kind == RAW:
                self.bpf.attach_raw_tracepoint(tp=program.target, fn_name=program.function)
            elif program.kind == TRACEPOINT:
                self.bpf.attach_tracepoint(tp=program.target, fn_name=program.function)
            else:
                self.bpf.attach_perf_event(
                    ev_type=_SOFTWARE_EVENTS, ev_config=int(program.target), fn_name=program.function, sample_period=1
                )
        except Exception as error:  # bcc raises nothing narrower, and its text misleads: the errno is the truth
            return f"{program.function} on {program.target}: {explain_errno(ctypes.get_errno(), str(error))}"
        return ""

    def attach_function(self, path: str, address: int, entry: str, leave: str) -> str:
        """Attach programs to the entry and the return of a user function; return what went wrong."""
        ctypes.set_errno(0)
        try:
            self.bpf.attach_uretprobe(name=path, addr=address, fn_name=leave)
            self.bpf.attach_uprobe(name=path, addr=address, fn_name=entry)
        except Exception as error:  # see above
            return f"{entry} in {path}: {explain_errno(ctypes.get_errno(), str(error))}"
        return ""

    def detach(self) -> None:
        """Stop all programs; the maps stay readable."""
        bpf = self.bpf
        tables = (bpf.raw_tracepoint_fds, bpf.tracepoint_fds, bpf.uprobe_fds)
        descriptors = [descriptor for table in tables for descriptor in table.values()]
        descriptors += [descriptor for per_cpu in bpf.open_perf_events.values() for descriptor in per_cpu.values()]
        # Each close waits for an RCU grace period; side by side they share it.
        with ThreadPoolExecutor(max(1, len(descriptors))) as pool:
            list(pool.map(os.close, descriptors))
        for table in (*tables, bpf.open_perf_events):
            table.clear()

    def self_time(self) -> dict[str, tuple[int, int, int]]:
        """Return (ns, runs, missed runs) by function since statistics were switched on."""
        return {function.name.decode(): _run_statistics(function.fd) for function in self.bpf.funcs.values()}


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
    values = {}
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        name, _, value = line.partition(":")
        values[name] = value.strip()
    return tuple(int(values.get(name, 0)) for name in ("run_time_ns", "run_cnt", "recursion_misses"))  # type: ignore
