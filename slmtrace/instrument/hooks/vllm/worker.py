"""vLLM's worker: one step of the model. It runs in a process of its own, or inside the engine core's."""

from __future__ import annotations

from ..base import Hook
from . import core

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...wrap import Call

_WORKER = "vllm.v1.worker.gpu_worker"
_RUNNER_1 = "vllm.v1.worker.gpu_model_runner"
_RUNNER_2 = "vllm.v1.worker.gpu.model_runner"
_MULTIPROC = "vllm.v1.executor.multiproc_executor"

_is_recorded = False  # whether the present step computes a prompt
_request = ""  # the one request whose first step it is


def is_recorded(call: Call) -> bool:
    """Say whether the present step computes a prompt: only such steps are recorded."""
    return _is_recorded


def _admit_step(call: Call) -> bool:
    """A step begins."""
    global _is_recorded, _request
    step = core.step_of(call)
    _is_recorded = bool(step.scheduled_new_reqs) or any(n > 1 for n in step.num_scheduled_tokens.values())
    _request = core.new_request(step) if _is_recorded else ""
    return _is_recorded


def _present_request(call: Call, result: Any) -> str:
    return _request


def _part(module: str, attribute: str, stage: str, **options: Any) -> Hook:
    return Hook(module, attribute, stage=stage, admit=is_recorded, request=_present_request, **options)


def _both(stage: str, attribute_1: str, attribute_2: str = "") -> list[Hook]:
    """Return the rows of one part of a step in both model runners."""
    rows = [_part(_RUNNER_1, f"GPUModelRunner.{attribute_1}", stage)]
    return rows + ([_part(_RUNNER_2, f"GPUModelRunner.{attribute_2}", stage)] if attribute_2 else [])


HOOKS = [
    Hook(_WORKER, "Worker.execute_model", stage="prepare", admit=_admit_step, request=_present_request),
    _part(_WORKER, "Worker.sample_tokens", "sample"),
    _part(_MULTIPROC, "WorkerProc.enqueue_output", "return"),
    *_both("prepare", "_update_states", "update_requests"),
    _part(_RUNNER_2, "GPUModelRunner.add_requests", "prepare"),
    *_both("prepare", "_prepare_inputs", "prepare_inputs"),
    *_both("prepare", "_build_attention_metadata", "prepare_attn"),
    *_both("prepare", "_preprocess"),
    *_both("prefill", "_model_forward"),
    _part("vllm.v1.worker.gpu.cudagraph_utils", "CudaGraphManager.run_fullgraph", "prefill", optional=True),
    *_both("sample", "_sample", "sample"),
    *_both("sample", "_bookkeeping_sync", "postprocess_sampled"),
    _part(_RUNNER_1, "AsyncGPUModelRunnerOutput.get_output", "sample"),
    _part(
        "vllm.v1.worker.gpu.async_utils",
        "AsyncOutput.get_output",
        "sample",
    ),
    _part("vllm.v1.utils", "CpuGpuBuffer.copy_to_gpu", "prepare"),
]
