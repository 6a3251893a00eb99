"""The built-in offline vLLM run, in the target: `python vllm_offline.py MODEL PROMPTS NEW_TOKENS`.

It is what a user's own program would be: the LLM class, one request after the other. It runs under the interpreter that
has vLLM, so it is started as a file and imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

# The modules beside this file must not be taken for vLLM's.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]


def main(model_path: str, prompts_path: str, n_new_tokens: str) -> None:
    """Load the model and answer every prompt."""
    from vllm import LLM, SamplingParams

    llm = LLM(model_path)
    params = SamplingParams(max_tokens=int(n_new_tokens), temperature=0, ignore_eos=True)
    for number, prompt in enumerate(json.loads(Path(prompts_path).read_text(encoding="utf-8"))):
        start_s = time.monotonic()
        (output,) = llm.generate([prompt], params, use_tqdm=False)
        n_tokens = len(output.outputs[0].token_ids)
        elapsed_ms = (time.monotonic() - start_s) * 1e3
        print(f"request {number}: {n_tokens} tokens after {elapsed_ms:.1f} ms", file=sys.stderr, flush=True)


# The processes that vLLM spawns run this file again.
if __name__ == "__main__":
    main(*sys.argv[1:])
