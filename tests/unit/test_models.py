"""Probe models: their sizes, their files, and what is said of directories that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from slmtrace.engines.architectures import MODEL_NAMES, list_tensors, scaled_config, weight_bytes
from slmtrace.engines.models import find_in_hub_cache, find_model, inspect_model, locate_model
from slmtrace.engines.prompts import make_prompts
from slmtrace.engines.synthesis import make_model, write_weights
from slmtrace.errors import SlmtraceError, UsageError


@pytest.mark.parametrize(
    ("name", "n_weights"),
    # The counts that the originals' safetensors headers give on the Hub.
    [("qwen2.5-1.5b", 1_543_714_304), ("phi-3-mini", 3_821_079_552), ("gpt-neox-1.3b", 1_414_647_808)],
)
def test_a_probe_model_has_as_many_weights_as_its_original(name: str, n_weights: int) -> None:
    assert weight_bytes(list_tensors(name, scaled_config(name))) == 2 * n_weights


@pytest.mark.parametrize(
    ("name", "layers", "scale", "gigabytes"),
    [("tiny", None, 1.0, 0.003), ("qwen2.5-1.5b", 12, 0.5, 0.51), ("qwen2.5-1.5b", None, 1.0, 3.09)],
)
def test_the_documented_flags_give_the_documented_sizes(
    name: str, layers: int | None, scale: float, gigabytes: float
) -> None:
    size_bytes = weight_bytes(list_tensors(name, scaled_config(name, layers, scale)))

    assert size_bytes == pytest.approx(gigabytes * 1e9, rel=0.02)


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("scale", [0.01, 0.3, 0.5, 0.75, 2.0])
def test_any_scale_keeps_the_heads_even(name: str, scale: float) -> None:
    original, scaled = scaled_config(name), scaled_config(name, scale=scale)

    head = original["hidden_size"] // original["num_attention_heads"]
    assert scaled["hidden_size"] == head * scaled["num_attention_heads"]
    assert scaled["num_attention_heads"] % scaled.get("num_key_value_heads", 1) == 0


def test_weights_are_finite_small_and_the_same_for_one_seed(tmp_path: Path) -> None:
    tensors = [("a.weight", (300, 70)), ("a.bias", (300,)), ("norm.weight", (70,))]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_weights(tmp_path / name, tensors, np.random.default_rng(7))
    data = (tmp_path / "one/model.safetensors").read_bytes()
    header_bytes = int.from_bytes(data[:8], "little")
    values = (np.frombuffer(data[8 + header_bytes :], "<u2").astype(np.uint32) << 16).view(np.float32)

    assert data == (tmp_path / "two/model.safetensors").read_bytes()
    assert json.loads(data[8 : 8 + header_bytes])["norm.weight"]["shape"] == [70]
    assert np.abs(values[:21000]).max() < 0.2
    assert values[:21000].std() == pytest.approx(0.02, rel=0.02)
    assert (values[21000:21300] == 0).all()
    assert (values[21300:] == 1).all()


def test_a_model_over_the_shard_size_has_an_index(tmp_path: Path) -> None:
    tensors = [(f"{n}.weight", (100, 100)) for n in range(5)]
    write_weights(tmp_path, tensors, np.random.default_rng(0), shard_bytes=45_000)
    (tmp_path / "config.json").write_text("{}")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())

    assert [path.name for path in inspect_model(tmp_path).weight_files] == [
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ]
    assert index["metadata"]["total_size"] == 100_000
    assert index["weight_map"]["4.weight"] == "model-00003-of-00003.safetensors"


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    write_weights(tmp_path, [(f"{n}.weight", (9, 9)) for n in range(2)], np.random.default_rng(0), shard_bytes=200)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()

    with pytest.raises(UsageError, match="misses 1 of its 2 weight files, such as model-00002"):
        inspect_model(tmp_path)


def test_a_directory_without_configuration_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()

    with pytest.raises(UsageError, match=r"no config\.json") as caught:
        find_model(str(tmp_path))

    assert "GGUF" in caught.value.hint


def test_a_directory_without_weights_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    with pytest.raises(UsageError, match="has no weights"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_damaged_configuration_is_told_by_its_name(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content, encoding="latin-1")

    with pytest.raises(UsageError, match=r"config\.json"):
        find_model(str(tmp_path))


def test_an_unknown_name_is_told_with_those_that_are_known() -> None:
    with pytest.raises(UsageError, match="nor a probe model") as caught:
        find_model("llama")

    assert "qwen2.5-1.5b" in caught.value.hint


def test_a_snapshot_of_the_hubs_cache_has_its_models_name(tmp_path: Path) -> None:
    path = tmp_path / "models--Qwen--Qwen2.5-0.5B" / "snapshots" / "060db6499f32faf8b98477b0a26969ef7d8b9987"
    path.mkdir(parents=True)
    (path / "config.json").write_text('{"max_position_embeddings": 32768}')
    (path / "model.safetensors").touch()

    model = inspect_model(path)

    assert (model.name, model.max_tokens) == ("Qwen2.5-0.5B", 32768)


def test_a_model_is_not_written_over_anything(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()

    with pytest.raises(UsageError, match="is not empty"):
        make_model("tiny", tmp_path)


def test_a_model_that_does_not_fit_on_the_disk_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SlmtraceError, match="free, the model takes") as caught:
        make_model("phi-3-mini", tmp_path / "model", layers=1_000_000)

    assert "--layers" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def count_words(text: str) -> int:
    return len(text.split())


def test_prompts_have_the_exact_length_and_differ_from_the_start() -> None:
    words = [f"w{n}" for n in range(50)]

    prompts = make_prompts(count_words, 120, 3, words)

    assert [count_words(prompt) for prompt in prompts] == [120, 120, 120]
    assert len({prompt.split()[0] for prompt in prompts}) == 3


def test_words_of_several_tokens_are_filled_up() -> None:
    def count_tokens(text: str) -> int:
        return 1 + sum(1 if len(word) < 4 else 3 for word in text.split())

    assert [count_tokens(p) for n in range(1, 40) for p in make_prompts(count_tokens, n, 1, ["token", "of"])] == [
        *range(1, 40)
    ]


def test_a_length_that_no_text_has_is_told() -> None:
    with pytest.raises(ValueError, match="exactly 7 tokens"):
        make_prompts(lambda text: 2 * len(text.split()), 7, 1, ["word"])


def test_a_model_in_the_hubs_cache_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--small"
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")

    assert find_in_hub_cache("owner/small") == snapshot
    assert find_in_hub_cache("owner/other") is None


def test_a_word_too_long_for_a_path_is_no_model() -> None:
    assert locate_model("x" * 5000) is None
