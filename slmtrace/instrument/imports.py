"""Time imports and run hooks after them, by patching the loaders in place.

Modules keep their own __spec__ and __loader__, so that importlib.resources, inspect and pickle see nothing unusual.
"""

from __future__ import annotations

import sys
from time import monotonic_ns, thread_time_ns

from . import constants as c
from .recorder import complain, recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.abc import SourceLoader
    from importlib.machinery import ExtensionFileLoader, ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any

    PostImport = Callable[[ModuleType], None]

# Shorter imports are told by the one that contains them.
SHORTEST_NS = 200_000

# The hook table to load when a package starts to be imported, before its first module runs.
TABLE_BY_PACKAGE = {"torch": "torch", "transformers": "hf", "vllm": "vllm"}

_post_import: dict[str, list[PostImport]] = {}


def install() -> None:
    """Patch the loaders of Python and extension modules, once."""
    external: Any = sys.modules["_frozen_importlib_external"]
    basics, extension = external._LoaderBasics, external.ExtensionFileLoader
    file_name = basics.exec_module.__code__.co_filename
    for owner, attribute, make in (
        (basics, "exec_module", _timed_exec),
        (extension, "exec_module", _timed_exec),
        (extension, "create_module", _timed_dlopen),
        (external.SourceLoader, "source_to_code", _timed_compile),
    ):
        timed: Any = make(getattr(owner, attribute))
        # Python hides the frames of this file when it prints the traceback of a failed import (import.c,
        # remove_importlib_frames): under its name ours stay out of the target's messages too.
        timed.__code__ = timed.__code__.replace(co_filename=file_name)
        setattr(owner, attribute, timed)


def after_import(name: str, run: PostImport) -> None:
    """Run `run(module)` once the module of this name has been executed, or now if it has been."""
    module = sys.modules.get(name)
    if module is None or getattr(getattr(module, "__spec__", None), "_initializing", False):
        _post_import.setdefault(name, []).append(run)
    else:
        _run(run, module)


def _timed_exec(original: Callable[[Any, ModuleType], None]) -> Callable[[Any, ModuleType], None]:
    def exec_module(self: Any, module: ModuleType) -> None:
        name = module.__name__
        if name in TABLE_BY_PACKAGE:
            _load_table(TABLE_BY_PACKAGE[name])
        local = recorder.local
        depth = getattr(local, "import_depth", 0)
        compiled_around_ns = getattr(local, "compiled_ns", 0)
        local.import_depth, local.compiled_ns = depth + 1, 0
        start_ns = monotonic_ns()
        try:
            original(self, module)
        finally:
            end_ns = monotonic_ns()
            compiled_ns = local.compiled_ns
            local.import_depth, local.compiled_ns = depth, compiled_around_ns
            if end_ns - start_ns >= SHORTEST_NS:
                recorder.write(c.IMPORT, recorder.intern(name), start_ns, end_ns, a=compiled_ns, used=depth)
            else:
                local.compiled_ns += compiled_ns
        for run in _post_import.pop(name, ()):
            _run(run, module)

    return exec_module


def _timed_dlopen(
    original: Callable[[ExtensionFileLoader, ModuleSpec], ModuleType],
) -> Callable[[ExtensionFileLoader, ModuleSpec], ModuleType]:
    def create_module(self: ExtensionFileLoader, spec: ModuleSpec) -> ModuleType:
        start_ns = monotonic_ns()
        try:
            return original(self, spec)
        finally:
            end_ns = monotonic_ns()
            if end_ns - start_ns >= SHORTEST_NS:
                depth = getattr(recorder.local, "import_depth", 0)
                recorder.write(c.DLOPEN, recorder.intern(spec.name), start_ns, end_ns, used=depth)

    return create_module


def _timed_compile(original: Callable[..., CodeType]) -> Callable[..., CodeType]:
    def source_to_code(self: SourceLoader, *args: Any, **options: Any) -> CodeType:
        start_ns = thread_time_ns()
        try:
            return original(self, *args, **options)
        finally:
            local = recorder.local
            local.compiled_ns = getattr(local, "compiled_ns", 0) + thread_time_ns() - start_ns

    return source_to_code


def _load_table(name: str) -> None:
    try:
        from . import hooks

        hooks.install(name)
    except Exception as error:
        recorder.note("hook_error", f"{name}: {type(error).__name__}: {error}")
        complain(error)


def _run(run: PostImport, module: ModuleType) -> None:
    try:
        run(module)
    except Exception as error:
        recorder.note("hook_error", f"{module.__name__}: {type(error).__name__}: {error}")
        complain(error)
