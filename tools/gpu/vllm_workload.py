"""Load a model with vLLM and answer a few requests: what tools/gpu/vllm.sh records.

Usage: vllm_workload.py MODEL [--requests N] [--asked] [--prompt-tokens N] [--new-tokens N] [--memory SHARE]
    [--no-async-scheduling]
With --asked, further requests come as standard input asks for them (turns.py).
"""

from __future__ import annotations

import argparse
import time

import turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=6)
    parser.add_argument("--asked", action="store_true")
    parser.add_argument("--prompt-tokens", type=int, default=161)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--memory", type=float, default=0.5, help="share of the GPU's memory that it may take")
    parser.add_argument("--no-async-scheduling", action="store_true", help="no step before the last one's token is out")
    args = parser.parse_args()

    begin_s = time.monotonic()
    from vllm import LLM, SamplingParams  # noqa: PLC0415  (its import is part of the load)

    llm = LLM(
        args.model,
        max_model_len=2048,
        gpu_memory_utilization=args.memory,
        enable_prefix_caching=False,
        disable_log_stats=False,
        async_scheduling=not args.no_async_scheduling,
    )
    print(f"load {time.monotonic() - begin_s:.3f} s", flush=True)
    options = SamplingParams(max_tokens=args.new_tokens, min_tokens=args.new_tokens, temperature=0.0)
    for number in turns.numbers(args.requests, is_asked=args.asked):
        begin_s = time.monotonic()
        prompt = {"prompt_token_ids": [10 + number % 1000] * args.prompt_tokens}
        output = llm.generate(prompt, options, use_tqdm=False)[0]
        latency_s = getattr(output.metrics, "first_token_latency", None)
        first = "unknown" if latency_s is None else f"{latency_s * 1e3:.2f} ms"
        print(f"request {number}: first token {first}, all {(time.monotonic() - begin_s) * 1e3:.2f} ms", flush=True)


if __name__ == "__main__":
    main()
