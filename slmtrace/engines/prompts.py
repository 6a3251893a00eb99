"""Make distinct prompts of an exact length: `python -m slmtrace.engines.prompts MODEL TOKENS COUNT OUT`.

It runs before the recording and outside the target, so that the target's first request is the tokenizer's first use.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .corpus import corpus_words

# One of these is a single token with any tokenizer that we know of.
_SHORT_WORDS = ("a", "I", "of", "the", "x")


def make_prompts(count_tokens: Callable[[str], int], n_tokens: int, n_prompts: int, words: Sequence[str]) -> list[str]:
    """Return prompts of exactly `n_tokens` tokens that differ from their first words on.

    Raises:
        ValueError: the tokenizer lets no text have this length.
    """
    stride = max(1, len(words) // n_prompts)
    return [
        _make_prompt(count_tokens, n_tokens, _rotated(words, index * stride, n_tokens)) for index in range(n_prompts)
    ]


def _make_prompt(count_tokens: Callable[[str], int], n_tokens: int, words: list[str]) -> str:
    # The count grows with the text, so the longest run of words that fits is found by halving.
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(" ".join(words[:middle])) <= n_tokens:
            low = middle
        else:
            high = middle - 1
    for kept in range(low, max(-1, low - 8), -1):
        for filler in _SHORT_WORDS:
            text = " ".join(words[:kept])
            while (found := count_tokens(text)) < n_tokens:
                longer = f"{text} {filler}" if text else filler
                if count_tokens(longer) <= found:
                    break
                text = longer
            if found == n_tokens:
                return text
    raise ValueError(f"this tokenizer makes no text of exactly {n_tokens} tokens")


def _rotated(words: Sequence[str], start: int, n: int) -> list[str]:
    """Return n words from `start` on, going round."""
    return [words[(start + position) % len(words)] for position in range(n)]


def _token_counter(model: Path) -> Callable[[str], int]:
    if (model / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(model / "tokenizer.json"))
        fast.no_truncation()
        return lambda text: len(fast.encode(text).ids)
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(model)
    return lambda text: len(slow(text)["input_ids"])


def main(model: str, n_tokens: str, n_prompts: str, out: str) -> None:
    """Write the prompts as a JSON list."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    prompts = make_prompts(_token_counter(Path(model)), int(n_tokens), int(n_prompts), corpus_words())
    Path(out).write_text(json.dumps(prompts), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
