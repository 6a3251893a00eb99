"""What vLLM calls its OpenTelemetry spans and their attributes, and which stage each span of its start is.

Of vLLM 0.11 and later: the decorator `instrument(span_name=...)`, and vllm/tracing/utils.py.
"""

from __future__ import annotations

from ..model.taxonomy import Stage

REQUEST_SPAN = "llm_request"
TIME_TO_FIRST_TOKEN = "gen_ai.latency.time_to_first_token"
TIME_IN_QUEUE = "gen_ai.latency.time_in_queue"
TIME_IN_PREFILL = "gen_ai.latency.time_in_model_prefill"
REQUEST_ID = "gen_ai.request.id"
PROCESS_ID = "vllm.process_id"
PROCESS_NAME = "vllm.process_name"
# What stands in for a process's name where vLLM gives none, as for the server of the API.
MODULE_NAME = "vllm.instrumenting_module_name"
SERVICE_NAME = "service.name"

# A span that is only a frame for others has the stage of what is around it: the process's start.
STAGES: dict[str, Stage | None] = {
    "Overall Loading": None,
    "AsyncMPClient init": Stage.PROCESS_SPAWN,
    "SyncMPClient init": Stage.PROCESS_SPAWN,
    "EngineCoreProc init": None,
    "Executor init": Stage.PROCESS_SPAWN,
    "Worker init": Stage.DEVICE_INIT,
    "Init device": Stage.DEVICE_INIT,
    "Download weights - HF": Stage.WEIGHTS,
    "Initialize model": Stage.MODEL_INIT,
    "Load model": Stage.WEIGHTS,
    "Load weights": Stage.WEIGHTS,
    "Loading (CPU)": Stage.WEIGHTS,
    "Loading (GPU)": Stage.WEIGHTS,
    "Prepare model": Stage.KV_CACHE,
    "Allocate KV cache": Stage.KV_CACHE,
    "Compile graph": Stage.COMPILE,
    "Inductor compilation": Stage.COMPILE,
    "Warmup (CPU)": Stage.WARMUP,
    "Warmup (GPU)": Stage.WARMUP,
    "CuTeDSL warmup": Stage.WARMUP,
    "DeepGemm warmup": Stage.WARMUP,
    "DeepSeek V4 mHC warmup": Stage.WARMUP,
    "MiniMax M3 MSA warmup": Stage.WARMUP,
    "Capture model": Stage.GRAPH_CAPTURE,
    "API server setup": Stage.SERVER_START,
}
