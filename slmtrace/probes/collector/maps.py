"""BPF maps as the collector uses them: arrays and hash tables by number, per-CPU counters, queues."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from . import kernel
from .bytecode import MapLayout

_CPUS = Path("/sys/devices/system/cpu")
_KEY = struct.Struct("=I")
_COUNTER_BYTES = 8

T = TypeVar("T")


class Map:
    """A map that was created for us; keys are 32-bit numbers, values are bytes.

    Raises:
        OSError: the kernel refuses.
    """

    def __init__(self, layout: MapLayout) -> None:
        self.descriptor = kernel.create_map(*layout)
        self.max_entries = layout.max_entries
        self._value_bytes = layout.value_bytes

    def get(self, key: int) -> bytes | None:
        """Return the value of a key, or None."""
        return _if_present(partial(kernel.look_up, self.descriptor, _KEY.pack(key), self._value_bytes))

    def set(self, key: int, value: bytes) -> None:
        """Set the value of a key."""
        if len(value) != self._value_bytes:
            raise ValueError(f"{len(value)} bytes for a value of {self._value_bytes}")
        kernel.update(self.descriptor, _KEY.pack(key), value)

    def remove(self, key: int) -> None:
        """Take a key out, if it is there."""
        _if_present(partial(kernel.delete, self.descriptor, _KEY.pack(key)))

    def list_keys(self) -> list[int]:
        """Return the keys that are there."""
        found: list[int] = []
        key = b""
        while (after := _if_present(partial(kernel.next_key, self.descriptor, key, _KEY.size))) is not None:
            found.append(_KEY.unpack(after)[0])
            key = after
        return found

    def pop(self) -> bytes | None:
        """Take the next value out of a queue; None if it is empty."""
        return _if_present(partial(kernel.pop, self.descriptor, self._value_bytes))

    def sum(self, key: int) -> int:
        """Return a per-CPU counter's sum."""
        n_bytes = _COUNTER_BYTES * len(cpus("possible"))
        values = kernel.look_up(self.descriptor, _KEY.pack(key), n_bytes)
        return sum(struct.unpack(f"={n_bytes // _COUNTER_BYTES}Q", values))


def _if_present(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise


@cache
def cpus(which: str) -> tuple[int, ...]:
    """Return the numbers of the CPUs that are "possible" or "online"; the kernel writes lists such as 0-3,8-11."""
    parts = (_CPUS / which).read_text().strip().split(",")
    ranges = (part.split("-") for part in parts)
    return tuple(cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1))
