"""All faults, by name."""

from __future__ import annotations

from . import machine, program
from .base import Fault

FAULTS: dict[str, Fault] = {fault.name: fault for fault in (*machine.FAULTS, *program.FAULTS)}
