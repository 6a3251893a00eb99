"""Every rule, in the order in which they are asked: what is more specific comes first, and takes its time.

A rule reads causes and their details, the state of the node and counters; it never knows how a fault was made.
"""

from __future__ import annotations

from ..rule import Rule
from . import allocator, device, runtime, scheduler, storage

RULES: tuple[Rule, ...] = (
    allocator.LIMIT,
    *storage.RULES,
    *allocator.RULES,
    *device.RULES,
    *runtime.RULES,
    *scheduler.RULES,
)
