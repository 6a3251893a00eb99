"""Write a probe model: random weights in bfloat16 safetensors, a trained byte-level BPE tokenizer, a configuration.

What the way to the first token costs does not depend on the weights' values. They are finite and small, as trained ones
are, and made block by block, so that a model of any size needs little memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import SlmtraceError, UsageError
from ..units import format_bytes
from .architectures import BYTES_PER_WEIGHT, Config, Tensor, list_tensors, n_weights, scaled_config, weight_bytes
from .corpus import corpus_lines

END_OF_TEXT = "<|endoftext|>"
# The Hub's usual shard size, so that a model has as many files as its original.
SHARD_BYTES = 5_000_000_000
_BLOCK_WEIGHTS = 32 << 20
_STANDARD_DEVIATION = 0.02
# More merges than the corpus can teach are of no use; the rest of a larger vocabulary is filled up.
_MAX_TRAINED_VOCABULARY = 16384
_BFLOAT16_ONE = 0x3F80
# How Qwen2's tokenizer splits a text into words (its tokenizer.json): transformers applies it to every qwen2 model.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_model(name: str, directory: Path, *, layers: int | None = None, scale: float = 1.0, seed: int = 0) -> int:
    """Write a probe model into a new directory, which appears only when it is complete; return its weights' bytes.

    Raises:
        UsageError: the directory exists and holds something.
        SlmtraceError: the disk is too small or refuses.
    """
    config = scaled_config(name, layers, scale)
    tensors = list_tensors(name, config)
    size_bytes = weight_bytes(tensors)
    directory = directory.absolute()
    _check_place(directory, size_bytes)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
        try:
            _write_json(temporary / "config.json", config)
            _write_json(temporary / "generation_config.json", {"eos_token_id": 0, "pad_token_id": 0})
            write_tokenizer(temporary, config["vocab_size"], config["max_position_embeddings"])
            write_weights(temporary, tensors, np.random.default_rng(seed))
            temporary.chmod(0o755)
            temporary.rename(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise SlmtraceError(
            f"cannot write the model to {directory}: {error.strerror or error}", hint="name another directory"
        ) from error
    return size_bytes


def write_tokenizer(directory: Path, vocabulary: int, max_tokens: int) -> None:
    """Train a byte-level BPE tokenizer and fill its vocabulary up, so that every token of the model has a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocabulary, _MAX_TRAINED_VOCABULARY),
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus_lines(), trainer)
    plain = json.loads(tokenizer.to_str())
    known = plain["model"]["vocab"]
    known.update({f"<unused{token}>": token for token in range(len(known), vocabulary)})
    _write_json(directory / "tokenizer.json", plain)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(directory / "tokenizer_config.json", settings)


def write_weights(
    directory: Path, tensors: list[Tensor], generator: np.random.Generator, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the tensors as safetensors, in as many shards as they need, with an index if there is more than one."""
    block = _random_block(generator, min(_BLOCK_WEIGHTS, sum(n_weights(shape) for _, shape in tensors)))
    shards = list(_split(tensors, shard_bytes))
    if len(shards) == 1:
        _write_shard(directory / "model.safetensors", tensors, block)
        return
    shard_by_tensor: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(directory / name, shard, block)
        shard_by_tensor.update({tensor: name for tensor, _ in shard})
    index = {"metadata": {"total_size": weight_bytes(tensors)}, "weight_map": shard_by_tensor}
    _write_json(directory / "model.safetensors.index.json", index)


def _check_place(directory: Path, size_bytes: int) -> None:
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file", hint="name a new directory")
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty", hint="name a new directory, or remove this one")
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SlmtraceError(f"cannot make {directory.parent}: {error.strerror}", hint="name another one") from error
    free_bytes = shutil.disk_usage(directory.parent).free
    if free_bytes < size_bytes + (64 << 20):
        raise SlmtraceError(
            f"{directory.parent} has {format_bytes(free_bytes)} free, the model takes {format_bytes(size_bytes)}",
            hint="name a directory on a larger disk, or make a smaller model with --layers or --scale",
        )


def _random_block(generator: np.random.Generator, n: int) -> NDArray[np.uint16]:
    """Return normal values as bfloat16, which is the upper half of a float32."""
    values = generator.standard_normal(n, dtype=np.float32)
    values *= np.float32(_STANDARD_DEVIATION)
    return (values.view(np.uint32) >> 16).astype("<u2")


def _split(tensors: list[Tensor], shard_bytes: int) -> Iterator[list[Tensor]]:
    shard: list[Tensor] = []
    used_bytes = 0
    for tensor in tensors:
        size_bytes = weight_bytes([tensor])
        if shard and used_bytes + size_bytes > shard_bytes:
            yield shard
            shard, used_bytes = [], 0
        shard.append(tensor)
        used_bytes += size_bytes
    yield shard


def _write_shard(path: Path, tensors: list[Tensor], block: NDArray[np.uint16]) -> None:
    # safetensors, "Format": the header's length as u64, the header as JSON, the data in the order of its offsets.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors:
        begin, end = end, end + BYTES_PER_WEIGHT * n_weights(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    offset = 0
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors:
            if len(shape) == 1:
                _write_vector(file, name, shape[0])
            else:
                offset = _write_tiled(file, block, n_weights(shape), offset)
        file.flush()
        with contextlib.suppress(OSError):  # some file systems cannot; the model is complete all the same
            os.fsync(file.fileno())


def _write_vector(file: BinaryIO, name: str, n: int) -> None:
    """Write a bias as zeros and a norm's weight as ones: what a model starts from."""
    file.write(np.full(n, 0 if name.endswith(".bias") else _BFLOAT16_ONE, "<u2").tobytes())


def _write_tiled(file: BinaryIO, block: NDArray[np.uint16], n: int, offset: int) -> int:
    """Write n weights from the block, going round; return where the next tensor goes on."""
    while n:
        part = block[offset : offset + n]
        file.write(part.data)
        n -= len(part)
        offset = (offset + len(part)) % len(block)
    return offset


def _write_json(path: Path, content: Config) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
