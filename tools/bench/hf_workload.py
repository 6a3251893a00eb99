"""What the overhead benchmark times: a transformers program that measures itself, recorded or not.

Prints one JSON line: load_ns from the shell's clock just before exec (SLM_T0) to the model loaded, and ttft_ns of each
request (from text to the first token's text).
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
from transformers.utils import logging


class _FirstText(TextStreamer):  # type: ignore[misc]
    """Notes when the first text came."""

    first_ns = 0

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take a piece of text."""
        self.first_ns = self.first_ns or time.monotonic_ns()


def main(model_path: str, n_requests: int) -> None:
    """Load, answer, print."""
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model: Any = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto")
    load_ns = time.time_ns() - int(os.environ["SLM_T0"])
    prompt = "the quick brown fox jumps over the lazy dog " * 12
    ttft_ns = []
    for _ in range(n_requests):
        sink = _FirstText(tokenizer, skip_prompt=True)
        start_ns = time.monotonic_ns()
        inputs = tokenizer(prompt, return_tensors="pt")
        model.generate(**inputs, max_new_tokens=4, do_sample=False, streamer=sink)
        ttft_ns.append(sink.first_ns - start_ns)
    print(json.dumps({"load_ns": load_ns, "ttft_ns": ttft_ns}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
