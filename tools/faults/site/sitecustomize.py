"""Found on PYTHONPATH by the program that a fault is for: make its Python slow in the way that SLOW_PYTHON names.

Of the environment it reads the fault's own name, and SLOW_PYTHON_S: how much longer a call of a slow tokenizer takes.
Tools that watch the program are left alone.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_SLOW_S = float(os.environ.get("SLOW_PYTHON_S", "0.1"))
_LIVE_OBJECTS = 200_000
_HOLD_S = 0.1
_WATCHERS = ("slmtrace", "py-spy", "python3 -m slmtrace")


def _after_import(name: str, run: Callable[[ModuleType], None]) -> None:
    """Run something once a module has been imported."""

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
            if fullname != name:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(fullname)
            loader = spec.loader if spec else None
            if loader is None:
                return spec
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                run(module)

            loader.exec_module = exec_module  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, Finder())


def _before_each_call(owner: Any, name: str, run: Callable[[], None]) -> None:
    original = getattr(owner, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        run()
        return original(*args, **kwargs)

    setattr(owner, name, wrapper)


def _burn() -> None:
    until_s = time.perf_counter() + _SLOW_S
    while time.perf_counter() < until_s:
        pass


def _slow_tokenizer(delay: Callable[[], None]) -> None:
    _after_import(
        "transformers.tokenization_utils_tokenizers",
        lambda module: _before_each_call(module.TokenizersBackend, "_encode_plus", delay),
    )


def _hog_the_gil() -> None:
    def spin() -> None:
        while True:
            sum(range(1000))

    # From the model on: an import of torch alone would take too long.
    _after_import("transformers.modeling_utils", lambda module: threading.Thread(target=spin, daemon=True).start())


def _storm_of_collections() -> None:
    live: list[list[int]] = []

    def collect() -> None:
        gc.collect()

    def install(module: ModuleType) -> None:
        live.extend([number] for number in range(_LIVE_OBJECTS))
        _before_each_call(module.Linear, "forward", collect)

    _after_import("torch.nn.modules.linear", install)


def _hold_a_lock() -> None:
    lock = threading.Lock()

    def hold() -> None:
        while True:
            with lock:
                time.sleep(_HOLD_S)
            time.sleep(_HOLD_S / 10)

    def wait() -> None:
        with lock:
            pass

    def install(module: ModuleType) -> None:
        threading.Thread(target=hold, daemon=True).start()
        _before_each_call(module.PreTrainedTokenizerBase, "decode", wait)

    _after_import("transformers.tokenization_utils_base", install)


def _crowd_the_cpus() -> None:
    # OMP_NUM_THREADS is not enough: MKL allows torch no more than there are CPUs.
    n_threads = 8 * len(os.sched_getaffinity(0))
    _after_import("torch", lambda module: module.set_num_threads(n_threads))


_KINDS: dict[str, Callable[[], None]] = {
    "tokenizer_burns": lambda: _slow_tokenizer(_burn),
    "tokenizer_sleeps": lambda: _slow_tokenizer(lambda: time.sleep(_SLOW_S)),
    "gil_hog": _hog_the_gil,
    "collections": _storm_of_collections,
    "lock_holder": _hold_a_lock,
    "too_many_threads": _crowd_the_cpus,
}


def _is_watcher() -> bool:
    with open("/proc/self/cmdline", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        words = file.read().split("\0")
    program = [os.path.basename(word) for word in words[:2]]  # noqa: PTH119
    is_module = words[1:2] == ["-m"] and words[2:3] and words[2].startswith("slmtrace")
    return bool(is_module) or any(word in _WATCHERS for word in program)


if os.environ.get("SLOW_PYTHON") in _KINDS and not _is_watcher():
    _KINDS[os.environ["SLOW_PYTHON"]]()
