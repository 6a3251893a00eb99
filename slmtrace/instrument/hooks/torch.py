"""PyTorch: moving a model, compiling, capturing graphs, pinning memory, bringing up CUDA."""

from __future__ import annotations

from .. import marks
from ..wrap import thread_usage, write_range
from . import loading
from .base import Hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..wrap import Call

_GRAPH = "graph_capture|cuda graph"


def _begin_graph(call: Call, start_ns: int) -> None:
    marks.current().pending[_GRAPH] = (start_ns, thread_usage())


def _end_graph(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    begun = marks.current().pending.pop(_GRAPH, None)
    if begun is not None:
        write_range(_GRAPH, begun[0], end_ns, begun[1])


def _move(attribute: str) -> Hook:
    # Found from torch itself, whose import ends after torch.compiler's.
    return Hook(
        "torch",
        "nn." + attribute,
        stage="weights",
        label=attribute,
        compiled=True,
        accounting=True,
        gated=True,
        enter=loading.enter_loading,
        leave=loading.leave_loading,
    )


def _compile(module: str, attribute: str, **options: Any) -> Hook:
    return Hook(module, attribute, stage="compile", begin=True, **options)


HOOKS = [
    _move("Module.to"),
    _move("Module.cuda"),
    _move("Module.eval"),
    # Asked for before every CUDA call, and brings the device up once.
    Hook("torch.cuda", "_lazy_init", stage="device_init", accounting=True, shortest_ns=200_000),
    _compile("torch._dynamo.convert_frame", "_compile", label="dynamo compile", accounting=True),
    # Compiled ahead of its first call, as vLLM does: traced, saved, and loaded by the next start.
    _compile("torch._dynamo.aot_compile", "aot_compile_fullgraph", label="dynamo aot compile", optional=True),
    _compile(
        "torch._dynamo.aot_compile",
        "AOTCompiledFunction.save_compiled_function",
        label="save compiled code",
        optional=True,
    ),
    _compile("torch.compiler", "load_compiled_function", label="load compiled code", optional=True),
    _compile("torch._inductor.compile_fx", "compile_fx", label="inductor compile_fx"),
    _compile("torch._inductor.graph", "GraphLowering.codegen", label="inductor codegen"),
    _compile("torch._inductor.async_compile", "AsyncCompile.wait", label="inductor wait for compilers"),
    # Their causes are theirs by these labels (attribute/rules.py), in whatever stage they happen.
    Hook("triton.compiler.compiler", "compile", label="triton compile", begin=True),
    Hook("triton.runtime.build", "_build", label="triton launcher build", optional=True),
    Hook("triton.runtime.autotuner", "Autotuner._bench", label="triton autotune"),
    Hook(
        "torch._inductor.runtime.triton_heuristics",
        "CachingAutotuner.benchmark_all_configs",
        label="inductor autotune",
        begin=True,
    ),
    Hook("torch.cuda.graphs", "graph.__enter__", silent=True, enter=_begin_graph),
    Hook("torch.cuda.graphs", "graph.__exit__", silent=True, leave=_end_graph),
    Hook("torch", "Tensor.pin_memory", shortest_ns=20_000, compiled=True),
]
