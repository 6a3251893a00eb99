"""The /proc log: memory, pressure and cgroup counters of the node and of the target."""

from __future__ import annotations

from ..capture.directory import RawLog
from .base import Context, Fragment
from .counters import decode_counters


def decode(log: RawLog, context: Context) -> Fragment:
    """Decode the counters that the recorder read from /proc and /sys."""
    return decode_counters(log, context)
