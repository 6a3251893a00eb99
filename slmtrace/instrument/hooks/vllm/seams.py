"""The places where vLLM itself lets a tracer in: its @instrument decorator, its profiler scopes, its process titles."""

from __future__ import annotations

import os
from time import monotonic_ns

from ...recorder import recorder
from ...wrap import wrap, write_range
from ..base import Hook
from . import core, requests, worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ...wrap import Call

# Stages of vllm.tracing's spans by the words that they start with, longest first.
_SPAN_STAGES = (
    ("Allocate KV cache", "kv_cache"),
    ("API server setup", "server_start"),
    ("Capture model", "graph_capture"),
    ("Compile graph", "compile"),
    ("CuTeDSL warmup", "warmup"),
    ("DeepGemm warmup", "warmup"),
    ("Download weights", "weights"),
    ("Executor init", "process_spawn"),
    ("Inductor compilation", "compile"),
    ("Init device", "device_init"),
    ("Initialize model", "model_init"),
    ("Load", "weights"),
    ("MiniMax M3 MSA warmup", "warmup"),
    ("Prepare model", "kv_cache"),
    ("Warmup", "warmup"),
    ("Worker init", "process_spawn"),
)

# Stages of the profiler scopes, and what has to be going on for them to be recorded.
_SCOPES: dict[str, tuple[str, Callable[[Call], bool]]] = {
    "gpu_model_runner: preprocess": ("prepare", worker.is_recorded),
    "gpu_model_runner: forward": ("prefill", worker.is_recorded),
    "gpu_model_runner: postprocess": ("sample", worker.is_recorded),
    "gpu_model_runner: sample": ("sample", worker.is_recorded),
    "gpu_model_runner: draft": ("sample", worker.is_recorded),
    "gpu_model_runner: bookkeep": ("sample", worker.is_recorded),
    "gpu_model_runner: ModelRunnerOutput": ("return", worker.is_recorded),
    "schedule: allocate_slots": ("schedule", core.is_awaiting),
    "llm_engine step: get_output": ("return", requests.is_awaiting),
    "llm_engine step: process_outputs": ("return", requests.is_awaiting),
}
_OWN_SCOPES = ("VLLM_CUSTOM_SCOPES_FOR_PROFILING", "VLLM_NVTX_SCOPES_FOR_PROFILING")


class _Scope:
    """A profiler scope of vLLM as a range."""

    __slots__ = ("name", "start_ns")

    def __init__(self, name: str) -> None:
        stage, is_wanted = _SCOPES.get(name, ("", _never))
        self.name = f"{stage}|{name}" if is_wanted(((), {})) else ""
        self.start_ns = 0

    def __enter__(self) -> None:
        self.start_ns = monotonic_ns()

    def __exit__(self, *exception: object) -> None:
        if self.name:
            write_range(self.name, self.start_ns, monotonic_ns())


def _never(call: Call) -> bool:
    return False


def _replace_instrument(module: Any, name: str) -> None:
    """Put a decorator in place that decorates as vLLM's own does, and records each call."""
    original = getattr(module, name)

    def instrument(obj: Any = None, *, span_name: str = "", **options: Any) -> Any:
        if obj is None:
            return lambda function: instrument(function, span_name=span_name, **options)
        label = span_name or obj.__qualname__
        stage = next((stage for start, stage in _SPAN_STAGES if label.startswith(start)), "")
        hook = Hook("vllm.tracing", name, stage=stage, label=label, begin=True, accounting=True)
        return wrap(original(obj, span_name=span_name, **options), hook)

    setattr(module, name, instrument)


def _replace_scopes(module: Any, name: str) -> None:
    """Take the profiler scopes, unless the user has vLLM use them."""
    if any(os.environ.get(variable, "0") not in ("", "0") for variable in _OWN_SCOPES):
        recorder.note("hook_miss", "vllm.v1.utils:_PROFILER_FUNC: in use by VLLM_*_SCOPES_FOR_PROFILING")
    else:
        setattr(module, name, _Scope)


def _leave_title(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    """vLLM's processes change their names: note which is which."""
    arguments, keywords = call
    words = [str(arguments[0] if arguments else keywords["name"]), str(keywords.get("suffix", ""))]
    recorder.note("process_title", "VLLM::" + "_".join(filter(None, words)))


HOOKS = [
    Hook("vllm.tracing", "instrument", replace=_replace_instrument),
    Hook("vllm.v1.utils", "_PROFILER_FUNC", replace=_replace_scopes),
    Hook(
        "vllm.utils.system_utils",
        "set_process_title",
        silent=True,
        leave=_leave_title,
        also=(("vllm.utils", "set_process_title"),),
    ),
]
