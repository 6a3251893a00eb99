"""Tables of what to wrap, one module an engine, and how a table is put to work or checked.

A row that finds none of its symbols is told in the log: engines move, and a missing stage must not look fast.
"""

from __future__ import annotations

import importlib

from ..imports import after_import
from ..recorder import recorder
from ..wrap import patch
from .base import Hook, HookStatus, Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

__all__ = ["TABLES", "Hook", "HookStatus", "Target", "install", "load_table", "resolve_all"]

TABLES = ("torch", "hf", "vllm")


def load_table(name: str) -> list[Hook]:
    """Return the rows of an engine's table."""
    table: list[Hook] = importlib.import_module("." + name, __name__).HOOKS
    return table


def install(name: str) -> None:
    """Wrap what the rows of a table name, each as its module gets imported."""
    for hook in load_table(name):
        waiting = {target.module for target in hook.targets}
        for module in sorted(waiting):
            after_import(module, _Installer(hook, waiting))


class _Installer:
    """Wrap a row's first symbol that the imported module has; note a miss when no module is left to have one."""

    def __init__(self, hook: Hook, waiting: set[str]) -> None:
        self.hook = hook
        self.waiting = waiting  # modules not imported yet, shared by the installers of the row

    def __call__(self, module: ModuleType) -> None:
        self.waiting.discard(module.__name__)
        if self.hook.is_installed:
            return
        if self.hook.unless and find(module, self.hook.unless) is not None:
            return
        for target in self.hook.targets:
            found = find(module, target.attribute) if target.module == module.__name__ else None
            if found is not None:
                self.hook.install_at(target)
                if self.hook.replace is not None:
                    self.hook.replace(*found)
                else:
                    patch(*found, self.hook)
                return
        if not self.waiting and not self.hook.optional:
            recorder.note("hook_miss", str(self.hook.targets[0]))


def find(module: Any, attribute: str) -> tuple[Any, str] | None:
    """Return the holder and the last name of a dotted attribute, or None if the module has no such thing."""
    holder, _, name = attribute.rpartition(".")
    for part in holder.split(".") if holder else ():
        module = getattr(module, part, None)
    return (module, name) if hasattr(module, name) else None


def resolve_all() -> list[HookStatus]:
    """Say of every row which of its symbols the installed packages have. Imports them, which takes seconds."""
    return [_resolve(table, hook) for table in TABLES for hook in load_table(table)]


def _resolve(table: str, hook: Hook) -> HookStatus:
    missing = "not importable"
    for target in hook.targets:
        try:
            module = importlib.import_module(target.module)
        except Exception:
            # A package that is absent or broken has no symbols; which of the two is not this table's question.
            continue
        missing = "not needed" if hook.optional else "missing"
        if hook.unless and find(module, hook.unless) is not None:
            return HookStatus(table, hook.name, str(target), "not needed")
        if find(module, target.attribute) is not None:
            return HookStatus(table, hook.name, str(target), "ok")
    return HookStatus(table, hook.name, str(hook.targets[0]), missing)
