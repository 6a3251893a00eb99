"""The NVML log: clocks, power, utilisation and PCIe counters of each GPU."""

from __future__ import annotations

from ..capture.directory import RawLog
from .base import Context, Fragment
from .counters import decode_counters


def decode(log: RawLog, context: Context) -> Fragment:
    """Decode the counters that NVML gave."""
    return decode_counters(log, context)
