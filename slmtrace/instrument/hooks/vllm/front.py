"""vLLM's front end: from the first byte of a request to the first byte of its answer."""

from __future__ import annotations

from ..base import Hook
from . import ids, requests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HTTP = "uvicorn.protocols.http."
_OPENAI = "vllm.entrypoints.openai."
_CLIENT = "vllm.v1.engine.core_client"
_OUTPUT = "vllm.v1.engine.output_processor"


def _sliced(module: str, attribute: str, stage: str, later_stage: str | None = None, **options: Any) -> Hook:
    return Hook(
        module,
        attribute,
        stage=stage,
        later_stage=later_stage,
        sliced=True,
        admit=requests.is_before_first_token,
        request=requests.current_id,
        **options,
    )


def _handler(module: str, attribute: str, *also: tuple[str, str]) -> Hook:
    return _sliced(_OPENAI + module, attribute, "receive", "submit", also=tuple((_OPENAI + m, a) for m, a in also))


def _stream(module: str, attribute: str, *also: tuple[str, str]) -> Hook:
    return _sliced(_OPENAI + module, attribute, "submit", "deliver", also=tuple((_OPENAI + m, a) for m, a in also))


def _protocol(module: str, protocol: str) -> list[Hook]:
    """Return the rows of one of uvicorn's two HTTP implementations."""
    cycle = "RequestResponseCycle."
    return [
        Hook(_HTTP + module, f"{protocol}.data_received", stage="receive", enter=requests.enter_data),
        _sliced(
            _HTTP + module, cycle + "run_asgi", "receive", "", enter=requests.enter_asgi, leave=requests.leave_asgi
        ),
        Hook(_HTTP + module, cycle + "send", silent=True, leave=requests.leave_send),
    ]


def _engine(module: str, attribute: str, stage: str = "submit", **options: Any) -> Hook:
    return Hook(module, attribute, stage=stage, **options)


def _argument_id(position: int) -> Any:
    return lambda call, result: ids.from_inner(requests.argument(call, position, "request").request_id)


HOOKS = [
    *_protocol("httptools_impl", "HttpToolsProtocol"),
    *_protocol("h11_impl", "H11Protocol"),
    _sliced("uvicorn.server", "Server.startup", "server_start", leave=requests.leave_startup),
    _handler(
        "completion.serving",
        "OpenAIServingCompletion.create_completion",
        ("serving_completion", "OpenAIServingCompletion.create_completion"),
    ),
    _handler(
        "chat_completion.serving",
        "OpenAIServingChat.create_chat_completion",
        ("serving_chat", "OpenAIServingChat.create_chat_completion"),
    ),
    _stream(
        "completion.serving",
        "OpenAIServingCompletion.completion_stream_generator",
        ("serving_completion", "OpenAIServingCompletion.completion_stream_generator"),
    ),
    _stream(
        "chat_completion.serving",
        "OpenAIServingChat.chat_completion_stream_generator",
        ("serving_chat", "OpenAIServingChat.chat_completion_stream_generator"),
    ),
    _sliced("vllm.renderers.base", "BaseRenderer.render_cmpl_async", "tokenize"),
    _sliced("vllm.renderers.base", "BaseRenderer.render_chat_async", "tokenize"),
    _engine("vllm.renderers.base", "BaseRenderer.render_cmpl", "tokenize"),
    _engine("vllm.renderers.base", "BaseRenderer.render_chat", "tokenize"),
    _engine("vllm.renderers.base", "BaseRenderer._tokenize_prompt", "tokenize"),
    _engine(
        "vllm.v1.engine.input_processor",
        "InputProcessor.process_inputs",
        request=lambda call, result: ids.from_outer(requests.argument(call, 1, "request_id")),
        also=(("vllm.v1.engine.processor", "Processor.process_inputs"),),
    ),
    _sliced("vllm.v1.engine.async_llm", "AsyncLLM.add_request", "submit"),
    _sliced(
        "vllm.v1.engine.async_llm",
        "AsyncLLM.generate",
        "submit",
        "deliver",
        enter=requests.enter_generate,
        leave=requests.leave_generate,
        item=requests.on_item,
    ),
    _sliced(_CLIENT, "AsyncMPClient.add_request_async", "submit"),
    _engine(_CLIENT, "SyncMPClient.add_request", request=_argument_id(1)),
    _engine(_CLIENT, "InprocClient.add_request", request=_argument_id(1)),
    _engine(_CLIENT, "SyncMPClient.get_output", "return", admit=requests.is_awaiting),
    Hook(_CLIENT, "AsyncMPClient.get_output_async", stage="return", sliced=True, admit=requests.is_awaiting),
    _engine(_OUTPUT, "OutputProcessor.add_request", request=_argument_id(1), leave=requests.leave_register),
    _engine(
        _OUTPUT,
        "OutputProcessor.process_outputs",
        "return",
        admit=requests.admit_outputs,
        request=requests.outputs_request,
        leave=requests.leave_outputs,
    ),
    Hook(_OUTPUT, "OutputProcessor.abort_requests", silent=True, leave=requests.leave_abort),
    _engine(
        _OUTPUT,
        "RequestOutputCollector.put",
        "deliver",
        admit=requests.is_awaiting,
        request=lambda call, result: ids.from_inner(call[0][0].request_id),
    ),
    _engine(
        "vllm.v1.engine.detokenizer", "BaseIncrementalDetokenizer.update", "detokenize", admit=requests.is_awaiting
    ),
    _engine(
        "vllm.entrypoints.llm",
        "LLM.generate",
        "",
        begin=True,
        enter=requests.enter_offline,
        leave=requests.leave_offline,
    ),
    _engine(
        "vllm.entrypoints.llm", "LLM.chat", "", begin=True, enter=requests.enter_offline, leave=requests.leave_offline
    ),
    _engine("vllm.v1.engine.llm_engine", "LLMEngine.add_request", enter=requests.enter_offline_request),
]
