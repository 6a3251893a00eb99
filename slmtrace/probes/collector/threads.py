"""The traced tree as the kernel holds it: put processes in, and take out what is left at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ...capture.layout import NAME_AT_ENROLL, NAME_OF_MEMBER, FoldClass, RingType
from .log import Log
from .maps import Map
from .structs import Thread


class NoSuchProcess(Exception):
    """The process to follow is gone."""


class Threads:
    """The kernel's table of followed threads."""

    def __init__(self, table: Map, log: Log, may_follow: Callable[[int], bool]) -> None:
        self._table = table
        self._log = log
        self._may_follow = may_follow

    def enroll(self, pid: int) -> dict[int, int]:
        """Follow a process, its threads and its descendants; return the process of each thread that was found.

        What a followed thread starts is followed by the kernel, so looking until nothing new is found leaves no gap.

        Raises:
            NoSuchProcess: there is none, or none that may be followed.
        """
        followed: dict[int, int] = {}
        while True:
            new = {tid: tgid for tid, tgid in self._tree_threads(pid).items() if tid not in followed}
            if not new:
                break
            for tid, tgid in new.items():
                self._follow(tid, tgid)
                if not self._may_follow(tgid):  # it has become another's, or the number has
                    self._table.remove(tid)
            followed.update(new)
        if not followed:
            raise NoSuchProcess(f"there is no process {pid} of the caller's")
        return followed

    def _tree_threads(self, pid: int) -> dict[int, int]:
        """Return the threads of a process and of its descendants that may be followed, with their process."""
        found: dict[int, int] = {}
        todo: list[int] = [pid]
        while todo:
            process = todo.pop()
            if not self._may_follow(process):
                continue
            for tid in _numbers(f"/proc/{process}/task"):
                found[tid] = process
                try:
                    children = Path(f"/proc/{process}/task/{tid}/children").read_text()
                except OSError:
                    continue
                todo.extend(int(child) for child in children.split())
        return found

    def _follow(self, tid: int, tgid: int) -> None:
        if self._table.get(tid) is None:
            state = Thread(tgid=tgid, exec_ns=_exec_ns(tid), left_ns=time.monotonic_ns(), is_off=_is_asleep(tid))
            self._table.set(tid, bytes(state))
        self._log.note(RingType.NAME, tid=tid, a=tgid, b=NAME_AT_ENROLL, comm=_comm(tid))

    def finish(self) -> None:
        """Stop following: write what the fold slots of living threads hold, and their names."""
        for tid in self._table.list_keys():
            value = self._table.get(tid)
            if value is None:  # it ended meanwhile, and the kernel has written its folds
                continue
            self._table.remove(tid)
            state = Thread.from_buffer_copy(value)
            for fold_class in FoldClass:
                fold = state.folds[fold_class]
                if fold.count:
                    self._log.note_fold(
                        tid,
                        fold.first_ns,
                        fold.last_ns,
                        fold_class | fold.count << 8 | (fold.size_bytes & 0xFFFFFFFF) << 32,
                        (fold.own_ns & 0xFFFFFFFF) | fold.device << 32,
                        fold.inode,
                    )
            self._log.note(RingType.NAME, tid=tid, a=state.tgid, b=NAME_OF_MEMBER, comm=_comm(tid))


def _exec_ns(tid: int) -> int:
    """Return what the scheduler has accounted to a thread (Documentation/scheduler/sched-stats.rst)."""
    try:
        return int(Path(f"/proc/{tid}/schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _is_asleep(tid: int) -> bool:
    try:
        return Path(f"/proc/{tid}/stat").read_text().rpartition(")")[2].split()[0] != "R"
    except (OSError, IndexError):
        return False


def _numbers(directory: str) -> list[int]:
    try:
        return [int(name) for name in os.listdir(directory)]  # noqa: PTH208 - numbers, not paths
    except OSError:
        return []


def _comm(tid: int) -> bytes:
    try:
        return Path(f"/proc/{tid}/comm").read_bytes().rstrip(b"\n")
    except OSError:
        return b""
