"""Find the model that a run is asked for: a directory, or a probe model, which is made at its first use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SlmtraceError, UsageError
from .architectures import MODEL_NAMES

# Part of the cached models' names: raise it when what is written changes.
_MODELS_VERSION = 1
_WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
_MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Model:
    """A model on disk."""

    name: str
    path: Path
    weight_files: tuple[Path, ...]
    config: dict[str, Any]

    @property
    def max_tokens(self) -> int:
        """Return how many tokens the model can attend to; 0 if its configuration does not say."""
        value = self.config.get("max_position_embeddings", 0)
        return value if isinstance(value, int) else 0


def find_model(name_or_path: str, say: Callable[[str], None] = lambda text: None) -> Model:
    """Return the model of this name or in this directory; `say` is told when one has to be made.

    Raises:
        UsageError: it is neither, or the directory holds no complete model.
        SlmtraceError: the probe model could not be made.
    """
    directory = locate_model(name_or_path)
    if directory is not None:
        return inspect_model(directory)
    if name_or_path not in MODEL_NAMES:
        raise UsageError(
            f"{name_or_path} is neither a directory, nor a model in the Hugging Face cache, nor a probe model",
            hint=f"name a directory with config.json and safetensors files, or one of {', '.join(MODEL_NAMES)}",
        )
    path = _cache_directory() / f"{name_or_path}-{_MODELS_VERSION}"
    if not path.is_dir():
        say(f"making the probe model {name_or_path}")
        _make_in_cache(name_or_path, path)
    found = inspect_model(path)
    return Model(name_or_path, found.path, found.weight_files, found.config)


def locate_model(word: str) -> Path | None:
    """Return the directory that a word names, itself or as a model in the Hugging Face cache; None: neither."""
    try:
        return Path(word) if Path(word).is_dir() else find_in_hub_cache(word)
    except OSError:  # too long for a path
        return None


def find_in_hub_cache(name: str) -> Path | None:
    """Return the directory of a model of this name, such as OWNER/NAME, that was downloaded before; None: it was not.

    The layout is huggingface_hub's ("Understand caching"): refs/main names the snapshot that a plain name means.
    """
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    repository = cache / f"models--{name.replace('/', '--')}"
    try:
        revision = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = repository / "snapshots" / revision
    return snapshot if revision and snapshot.is_dir() else None


def inspect_model(path: Path) -> Model:
    """Read what a model directory holds.

    Raises:
        UsageError: something that a model needs is missing.
    """
    config_path = path / "config.json"
    if not config_path.is_file():
        hint = "GGUF files are not supported; " if any(path.glob("*.gguf")) else ""
        raise UsageError(
            f"{path} is not a model: it has no config.json", hint=f"{hint}name a directory in the Hugging Face layout"
        )
    config = _read_json(config_path)
    weight_files = _find_weights(path)
    # Links are followed, as the kernel does: the evidence speaks of the files themselves.
    return Model(_directory_name(path), path.resolve(), tuple(file.resolve() for file in weight_files), config)


def has_tokenizer(model: Model) -> bool:
    """Say whether the directory holds any tokenizer."""
    return any((model.path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def _directory_name(path: Path) -> str:
    """Return a model's name; the Hub's cache calls directories models--OWNER--NAME/snapshots/REVISION."""
    path = path.resolve()
    if path.parent.name == "snapshots":
        return path.parent.parent.name.rpartition("--")[2]
    return path.name


def _find_weights(path: Path) -> list[Path]:
    for pattern in _WEIGHT_PATTERNS:
        if files := sorted(path.glob(pattern)):
            break
    else:
        raise UsageError(f"{path} has no weights: no *.safetensors file", hint="download the model's weights too")
    index_path = path / "model.safetensors.index.json"
    if index_path.is_file():
        named = set(_read_json(index_path).get("weight_map", {}).values())
        missing = sorted(named - {file.name for file in files})
        if missing:
            raise UsageError(
                f"{path} misses {len(missing)} of its {len(named)} weight files, such as {missing[0]}",
                hint="download the model again",
            )
        return [path / name for name in sorted(named)]
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="download the model again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is not a JSON object", hint="download the model again")
    return content


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "slmtrace" / "models"


def _make_in_cache(name: str, path: Path) -> None:
    # In a process of its own: the tokenizer trainer starts threads, and the recorder forks.
    command = [sys.executable, "-m", "slmtrace", "model", name, str(path)]
    made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if made.returncode and not path.is_dir():
        message = made.stderr.strip() or f"exit code {made.returncode}"
        raise SlmtraceError(f"the probe model {name} could not be made: {message}", hint="see slmtrace model --help")
