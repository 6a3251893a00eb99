"""The built-in transformers run, in the target: `python hf_target.py MODEL PROMPTS NEW_TOKENS RESULTS`.

It is what a user's own program would be: the public API, a streamer that receives text, nothing of ours. The recorder
treats it like any other command.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
from transformers.utils import logging


class _TextSink(TextStreamer):  # type: ignore[misc]
    """Receives the generated text as it comes, and notes when its first piece came."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True)
        self.first_text_s = 0.0

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take a piece of text."""
        self.first_text_s = self.first_text_s or time.monotonic()


def load(model_path: str) -> Any:
    """Load the model onto the GPU where there is one."""
    if not torch.cuda.is_available():
        return AutoModelForCausalLM.from_pretrained(model_path, dtype="auto")
    # Loading straight onto a device needs accelerate.
    if importlib.util.find_spec("accelerate"):
        return AutoModelForCausalLM.from_pretrained(model_path, dtype="auto", device_map="cuda")
    return AutoModelForCausalLM.from_pretrained(model_path, dtype="auto").to("cuda")


def main(model_path: str, prompts_path: str, n_new_tokens: str, results_path: str) -> None:
    """Load the model, answer every prompt, one after the other, and write down how each went."""
    logging.disable_progress_bar()
    is_quiet = bool(os.environ.get("SLMTRACE_QUIET"))  # instrument/environment.py
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = load(model_path)
    prompts = json.loads(Path(prompts_path).read_text(encoding="utf-8"))
    # A line at a time: who is ended in the middle has said what was before.
    with Path(results_path).open("w", encoding="utf-8", buffering=1) as results:
        for number, prompt in enumerate(prompts):
            result, said = answer(tokenizer, model, prompt, int(n_new_tokens))
            results.write(f"{json.dumps(result)}\n")
            if not is_quiet:
                print(f"request {number}: {said}", file=sys.stderr, flush=True)


def answer(tokenizer: Any, model: Any, prompt: str, n_new_tokens: int) -> tuple[dict[str, Any], str]:
    """Answer a prompt, and return how that went, for programs and in words."""
    sink = _TextSink(tokenizer)
    start_s = time.monotonic()
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    output = model.generate(**inputs, max_new_tokens=n_new_tokens, do_sample=False, streamer=sink)
    latency_s = time.monotonic() - start_s
    n_prompt_tokens = inputs["input_ids"].shape[1]
    n_new = output.shape[1] - n_prompt_tokens
    said = (
        f"{n_prompt_tokens} prompt tokens, first text after {(sink.first_text_s - start_s) * 1e3:.1f} ms, "
        f"{n_new} new tokens"
    )
    return {"start_s": start_s, "latency_s": latency_s, "n_new_tokens": n_new, "rss_bytes": _rss_bytes()}, said


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(*sys.argv[1:])
