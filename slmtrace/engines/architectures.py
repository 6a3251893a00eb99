"""The architectures of the probe models: their configuration as published, and the tensors that follow from it.

Nothing here needs torch: names and shapes are those of the checkpoints on the Hugging Face Hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]
Tensor = tuple[str, tuple[int, ...]]

BYTES_PER_WEIGHT = 2  # bfloat16
_INTERMEDIATE_UNIT = 64


@dataclass(frozen=True, slots=True)
class Architecture:
    """A probe model: its configuration and how to list its tensors."""

    config: Config
    tensors: Callable[[Config], Iterator[Tensor]]


def scaled_config(name: str, layers: int | None = None, scale: float = 1.0) -> Config:
    """Return a probe model's configuration with another depth and width.

    The width of a head stays, their number is scaled; so every kernel works on the shapes that it is used to.
    """
    config = dict(ARCHITECTURES[name].config)
    if layers is not None:
        config["num_hidden_layers"] = layers
    if scale != 1.0:
        heads = config["num_attention_heads"]
        head_dim = config["hidden_size"] // heads
        config["num_attention_heads"] = max(1, round(heads * scale))
        config["hidden_size"] = head_dim * config["num_attention_heads"]
        units = round(config["intermediate_size"] * scale / _INTERMEDIATE_UNIT)
        config["intermediate_size"] = _INTERMEDIATE_UNIT * max(1, units)
        if "num_key_value_heads" in config:
            wanted = max(1, round(config["num_key_value_heads"] * scale))
            config["num_key_value_heads"] = _largest_divisor(config["num_attention_heads"], at_most=wanted)
    return config


def list_tensors(name: str, config: Config) -> list[Tensor]:
    """Return the tensors of a probe model in the order of its checkpoint."""
    return list(ARCHITECTURES[name].tensors(config))


def weight_bytes(tensors: list[Tensor]) -> int:
    """Return the size of the tensors' data."""
    return BYTES_PER_WEIGHT * sum(n_weights(shape) for _, shape in tensors)


def n_weights(shape: tuple[int, ...]) -> int:
    """Return how many weights a tensor has."""
    n = 1
    for length in shape:
        n *= length
    return n


def _largest_divisor(n: int, at_most: int) -> int:
    return max(d for d in range(1, min(n, at_most) + 1) if n % d == 0)


def _qwen2_tensors(config: Config) -> Iterator[Tensor]:
    hidden, middle, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    key_value = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "mlp.down_proj.weight", (hidden, middle)
        yield prefix + "mlp.gate_proj.weight", (middle, hidden)
        yield prefix + "mlp.up_proj.weight", (middle, hidden)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        for projection, width in (("k", key_value), ("q", hidden), ("v", key_value)):
            yield f"{prefix}self_attn.{projection}_proj.bias", (width,)
            yield f"{prefix}self_attn.{projection}_proj.weight", (width, hidden)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
    yield "model.norm.weight", (hidden,)


def _phi3_tensors(config: Config) -> Iterator[Tensor]:
    hidden, middle, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    key_value = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "lm_head.weight", (vocabulary, hidden)
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        yield prefix + "mlp.down_proj.weight", (hidden, middle)
        yield prefix + "mlp.gate_up_proj.weight", (2 * middle, hidden)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
        yield prefix + "self_attn.qkv_proj.weight", (hidden + 2 * key_value, hidden)
    yield "model.norm.weight", (hidden,)


def _gpt_neox_tensors(config: Config) -> Iterator[Tensor]:
    hidden, middle, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    yield "embed_out.weight", (vocabulary, hidden)
    yield "gpt_neox.embed_in.weight", (vocabulary, hidden)
    yield "gpt_neox.final_layer_norm.bias", (hidden,)
    yield "gpt_neox.final_layer_norm.weight", (hidden,)
    linear = (
        ("attention.dense", (hidden, hidden)),
        ("attention.query_key_value", (3 * hidden, hidden)),
        ("mlp.dense_4h_to_h", (hidden, middle)),
        ("mlp.dense_h_to_4h", (middle, hidden)),
    )
    for layer in range(config["num_hidden_layers"]):
        prefix = f"gpt_neox.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{norm}.bias", (hidden,)
            yield f"{prefix}{norm}.weight", (hidden,)
        for name, shape in linear:
            yield f"{prefix}{name}.bias", shape[:1]
            yield f"{prefix}{name}.weight", shape


# Token 0 ends a text in the tokenizer that goes with all of them.
_COMMON: Config = {
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
_QWEN2: Config = {
    **_COMMON,
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}

ARCHITECTURES: dict[str, Architecture] = {
    "tiny": Architecture(
        {
            **_QWEN2,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "vocab_size": 4096,
        },
        _qwen2_tensors,
    ),
    "qwen2.5-1.5b": Architecture(
        {
            **_QWEN2,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_attention_heads": 12,
            "num_hidden_layers": 28,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        _qwen2_tensors,
    ),
    "phi-3-mini": Architecture(
        {
            **_COMMON,
            "architectures": ["Phi3ForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "max_position_embeddings": 4096,
            "model_type": "phi3",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "sliding_window": 2047,
            "tie_word_embeddings": False,
            "vocab_size": 32064,
        },
        _phi3_tensors,
    ),
    "gpt-neox-1.3b": Architecture(
        {
            **_COMMON,
            "architectures": ["GPTNeoXForCausalLM"],
            "hidden_act": "gelu",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 2048,
            "model_type": "gpt_neox",
            "num_attention_heads": 16,
            "num_hidden_layers": 24,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "use_parallel_residual": True,
            "vocab_size": 50304,
        },
        _gpt_neox_tensors,
    ),
}
MODEL_NAMES = tuple(ARCHITECTURES)
