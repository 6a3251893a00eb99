"""Hugging Face transformers 4.57 and 5: from configuration to first token."""

from __future__ import annotations

from . import generation, loading, prompts
from .base import Hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_AUTO = "transformers.models.auto."
_MODELING = "transformers.modeling_utils"
_CORE = "transformers.core_model_loading"
_TOKENIZER = "transformers.tokenization_utils_base"
_GENERATION = "transformers.generation.utils"


def _load(module: str, attribute: str, stage: str, **options: Any) -> Hook:
    """Return a row for a call whose end may make the program ready."""
    return Hook(
        module,
        attribute,
        stage=stage,
        begin=True,
        accounting=True,
        enter=loading.enter_loading,
        leave=loading.leave_loading,
        **options,
    )


def _weights(module: str, attribute: str, **options: Any) -> Hook:
    return Hook(module, attribute, stage="weights", accounting=True, **options)


def _tokenize(attribute: str, **options: Any) -> Hook:
    return Hook(_TOKENIZER, attribute, stage="tokenize", gated=True, leave=prompts.leave_tokenize, **options)


def _result_bytes(call: Any, result: Any) -> int:
    # 4.57 loads a shard at a time, into a dict that maps the file.
    tensors = result.values() if isinstance(result, dict) else (result,)
    return sum(int(tensor.nbytes) for tensor in tensors)


def _n_tokens(call: Any, result: Any) -> int:
    ids = result["input_ids"] if hasattr(result, "keys") else result
    if hasattr(ids, "numel"):
        return int(ids.numel())
    return sum(len(row) for row in ids) if ids and hasattr(ids[0], "__len__") else len(ids)


def _submit(attribute: str) -> Hook:
    return Hook(_GENERATION, "GenerationMixin." + attribute, gated=True)


def _loop(attribute: str) -> Hook:
    return Hook(_GENERATION, "GenerationMixin." + attribute, stage="sample")


HOOKS = [
    _load("transformers.pipelines", "pipeline", ""),
    _load(_AUTO + "configuration_auto", "AutoConfig.from_pretrained", "config"),
    _load(
        "transformers.configuration_utils",
        "PreTrainedConfig.from_pretrained",
        "config",
        also=(("transformers.configuration_utils", "PretrainedConfig.from_pretrained"),),
    ),
    _load("transformers.generation.configuration_utils", "GenerationConfig.from_pretrained", "config"),
    _load(_AUTO + "tokenization_auto", "AutoTokenizer.from_pretrained", "tokenizer_load"),
    _load(_TOKENIZER, "PreTrainedTokenizerBase.from_pretrained", "tokenizer_load"),
    _load(_AUTO + "processing_auto", "AutoProcessor.from_pretrained", "tokenizer_load"),
    _load(_AUTO + "auto_factory", "_BaseAutoModelClass.from_pretrained", "weights", label="AutoModel.from_pretrained"),
    _load(_MODELING, "PreTrainedModel.from_pretrained", "weights"),
    _load(_AUTO + "auto_factory", "_BaseAutoModelClass.from_config", "model_init", label="AutoModel.from_config"),
    _load(_MODELING, "PreTrainedModel._from_config", "model_init"),
    # Between these two, from_pretrained builds the model; 4.57 has no patch_output_recorders and loads right after.
    Hook(_MODELING, "PreTrainedModel.get_init_context", stage="model_init", leave=loading.begin_model_init),
    Hook(_MODELING, "patch_output_recorders", silent=True, enter=loading.end_model_init, optional=True),
    _weights(_MODELING, "_get_resolved_checkpoint_files"),
    _weights(_MODELING, "PreTrainedModel._load_pretrained_model", begin=True, enter=loading.end_model_init),
    _weights(_MODELING, "caching_allocator_warmup"),
    _weights(
        _MODELING,
        "convert_and_load_state_dict_in_model",
        begin=True,
        also=((_MODELING, "_load_state_dict_into_meta_model"),),
    ),
    _weights(_CORE, "_materialize_copy", size=_result_bytes, also=((_MODELING, "load_state_dict"),)),
    Hook(_CORE, "WeightTransform.materialize_tensors", stage="weights"),
    Hook(_CORE, "set_param_for_module", stage="weights"),
    _weights(_MODELING, "PreTrainedModel._finalize_model_loading", optional=True),
    _tokenize("PreTrainedTokenizerBase.__call__", label="tokenizer", size=_n_tokens, enter=prompts.enter_tokenize),
    _tokenize("PreTrainedTokenizerBase.encode", enter=prompts.enter_tokenize),
    _tokenize("PreTrainedTokenizerBase.apply_chat_template", enter=prompts.enter_template),
    Hook(_TOKENIZER, "PreTrainedTokenizerBase.decode", stage="detokenize", gated=True),
    Hook(
        _GENERATION,
        "GenerationMixin.generate",
        stage="submit",
        label="generate",
        begin=True,
        accounting=True,
        enter=generation.enter_generate,
        leave=generation.leave_generate,
    ),
    _submit("_prepare_generation_config"),
    _submit("_prepare_model_inputs"),
    _submit("_prepare_special_tokens"),
    _submit("_prepare_cache_for_generation"),
    _submit("_get_logits_processor"),
    _submit("_get_stopping_criteria"),
    _loop("_sample"),
    _loop("_beam_search"),
    _loop("_assisted_decoding"),
    Hook(
        _GENERATION,
        "GenerationMixin._prefill",
        stage="prefill",
        label="prefill",
        begin=True,
        accounting=True,
        gated=True,
        optional=True,
    ),
    # 4.57 has no _prefill: there the first forward pass lies between these two.
    Hook(
        _GENERATION,
        "GenerationMixin.prepare_inputs_for_generation",
        silent=True,
        gated=True,
        leave=generation.begin_forward,
        unless="GenerationMixin._prefill",
    ),
    Hook(
        _GENERATION,
        "GenerationMixin._update_model_kwargs_for_generation",
        silent=True,
        gated=True,
        enter=generation.end_forward,
        unless="GenerationMixin._prefill",
    ),
    Hook(
        _GENERATION,
        "GenerationMixin._has_unfinished_sequences",
        silent=True,
        gated=True,
        enter=generation.enter_loop_check,
    ),
    Hook(
        _GENERATION,
        "StopCheck.__call__",
        stage="sample",
        label="stop_check",
        gated=True,
        leave=generation.leave_stop_check,
        optional=True,
    ),
    generation.PUT,
]
