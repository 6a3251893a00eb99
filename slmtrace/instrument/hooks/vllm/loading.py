"""vLLM's start: configuration, processes, device, weights, KV cache, warm-up."""

from __future__ import annotations

from ... import constants as c
from ... import marks
from ...wrap import FAILED
from .. import loading
from ..base import Hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...wrap import Call

_ENGINE = "vllm.v1.engine."
_WORKER = "vllm.v1.worker."
_LOADER = "vllm.model_executor.model_loader."
_WEIGHTS = _LOADER + "weight_utils"
_COMPILER = "vllm.compilation."


def _enter_engine(call: Call, start_ns: int) -> None:
    """From here on this process is part of an engine: the libraries that it loads with do not make it ready."""
    loading.is_embedded = True


def _leave_llm(call: Call, result: Any, start_ns: int, end_ns: int) -> None:
    if result is not FAILED:
        marks.mark(c.MARK_READY, at_ns=end_ns)


def _long(module: str, attribute: str, stage: str = "", **options: Any) -> Hook:
    return Hook(module, attribute, stage=stage, begin=True, accounting=True, **options)


def _iterator(name: str) -> Hook:
    """Return the row of a generator that reads weights; what its consumer does with them is not its time."""
    return Hook(_WEIGHTS, name, stage="weights")


HOOKS = [
    _long("vllm.engine.arg_utils", "EngineArgs.create_engine_config", "config", enter=_enter_engine),
    _long("vllm.engine.arg_utils", "EngineArgs.create_model_config", "config"),
    Hook("vllm.transformers_utils.config", "get_config", stage="config"),
    _long(
        "vllm.tokenizers.registry",
        "get_tokenizer",
        "tokenizer_load",
        also=(("vllm.transformers_utils.tokenizer", "get_tokenizer"),),
    ),
    _long("vllm.entrypoints.llm", "LLM.__init__", enter=_enter_engine, leave=_leave_llm),
    _long(_ENGINE + "llm_engine", "LLMEngine.__init__"),
    _long(_ENGINE + "async_llm", "AsyncLLM.__init__"),
    _long(_ENGINE + "core_client", "MPClient.__init__"),
    _long(_ENGINE + "utils", "CoreEngineProcManager.__init__", "process_spawn"),
    _long(_ENGINE + "utils", "wait_for_engine_startup", "process_spawn"),
    _long(_ENGINE + "core", "EngineCoreProc.run_engine_core", enter=_enter_engine),
    _long(_ENGINE + "core", "EngineCore._initialize_kv_caches", "kv_cache"),
    _long("vllm.v1.executor.abstract", "Executor.__init__"),
    _long("vllm.v1.executor.multiproc_executor", "WorkerProc.make_worker_process", "process_spawn"),
    _long("vllm.v1.executor.multiproc_executor", "WorkerProc.wait_for_ready", "process_spawn"),
    _long("vllm.v1.executor.multiproc_executor", "WorkerProc.worker_main", enter=_enter_engine),
    _long(_WORKER + "worker_base", "WorkerWrapperBase.init_worker", "device_init"),
    _long(_WORKER + "worker_base", "WorkerWrapperBase.init_device", "device_init"),
    _long(_WORKER + "gpu_worker", "init_worker_distributed_environment", "device_init"),
    _long(_LOADER + "base_loader", "BaseModelLoader.load_model", "weights"),
    _long(_LOADER + "utils", "initialize_model", "model_init"),
    _long(_LOADER + "utils", "process_weights_after_loading", "weights"),
    _long(_LOADER + "default_loader", "DefaultModelLoader.load_weights", "weights"),
    _long(_LOADER + "default_loader", "DefaultModelLoader._prepare_weights", "weights"),
    _long(_WEIGHTS, "download_weights_from_hf", "weights"),
    _iterator("safetensors_weights_iterator"),
    _iterator("fastsafetensors_weights_iterator"),
    _iterator("runai_safetensors_weights_iterator"),
    _iterator("pt_weights_iterator"),
    _iterator("np_cache_weights_iterator"),
    _long(_WORKER + "gpu_worker", "Worker.determine_available_memory", "profile_run"),
    _long(_WORKER + "cpu_worker", "CPUWorker.determine_available_memory", "profile_run"),
    _long(_WORKER + "gpu_model_runner", "GPUModelRunner.profile_run", "profile_run"),
    _long(_WORKER + "gpu.model_runner", "GPUModelRunner.profile_run", "profile_run"),
    _long(_WORKER + "gpu_worker", "Worker.initialize_from_config", "kv_cache"),
    _long(_WORKER + "gpu_model_runner", "GPUModelRunner.initialize_kv_cache", "kv_cache"),
    _long(_WORKER + "gpu.model_runner", "GPUModelRunner.initialize_kv_cache", "kv_cache"),
    _long(_WORKER + "gpu_worker", "Worker.compile_or_warm_up_model", "warmup"),
    _long(_WORKER + "cpu_worker", "CPUWorker.compile_or_warm_up_model", "warmup"),
    _long(_WORKER + "cpu_model_runner", "CPUModelRunner.load_model", "weights"),
    _long(_WORKER + "cpu_model_runner", "CPUModelRunner.warming_up_model", "warmup"),
    _long(_WORKER + "gpu_model_runner", "GPUModelRunner.load_model", "weights"),
    _long(_WORKER + "gpu.model_runner", "GPUModelRunner.load_model", "weights"),
    _long(_WORKER + "gpu_model_runner", "GPUModelRunner.capture_model", "graph_capture"),
    _long(_WORKER + "gpu.model_runner", "GPUModelRunner.capture_model", "graph_capture"),
    _long("vllm.model_executor.warmup.kernel_warmup", "kernel_warmup", "warmup"),
    _long("vllm.v1.worker.gpu.warmup", "warmup_kernels", "warmup", optional=True),
    _long(_COMPILER + "backends", "VllmBackend.__call__", "compile"),
    _long(_COMPILER + "compiler_interface", "InductorStandaloneAdaptor.compile", "compile"),
    Hook("vllm.plugins", "load_general_plugins"),
]
