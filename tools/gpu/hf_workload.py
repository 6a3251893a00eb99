"""Load a model with transformers on the GPU and answer a few requests: what tools/gpu records.

Usage: hf_workload.py MODEL [--requests N] [--asked] [--prompt-tokens N] [--new-tokens N] [--profile [cuda|all]]
    [--device NAME]
Prints each request's time to first token; with --profile, torch.profiler's totals of each request too. With --asked,
further requests come as standard input asks for them (turns.py).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import time
from typing import Any

import torch
import turns
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--asked", action="store_true")
    parser.add_argument("--prompt-tokens", type=int, default=161)
    parser.add_argument("--new-tokens", type=int, default=4)
    parser.add_argument("--profile", nargs="?", const="cuda", choices=("cuda", "all"))
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()

    begin_s = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = load(args.model, args.device)
    print(f"load {time.monotonic() - begin_s:.3f} s", flush=True)
    # The profiler's own start-up must not land in the first request.
    if args.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]):
            torch.zeros(1, device="cuda")
    for number in turns.numbers(args.requests, is_asked=args.asked):
        prompt = " ".join(["free"] * args.prompt_tokens)
        with profiled(args.profile) if args.profile else contextlib.nullcontext() as profile:
            answer(model, tokenizer, prompt, args.prompt_tokens, args.new_tokens, number)
        if profile is not None:
            print_totals(profile, number)


def load(path: str, device: str) -> Any:
    if importlib.util.find_spec("accelerate"):
        return AutoModelForCausalLM.from_pretrained(path, dtype="auto", device_map=device)
    return AutoModelForCausalLM.from_pretrained(path, dtype="auto").to(device)


def answer(model: Any, tokenizer: Any, prompt: str, n_prompt_tokens: int, n_new_tokens: int, number: int) -> None:
    begin_s = time.monotonic()
    inputs = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=n_prompt_tokens).to(model.device)
    stamps: list[float] = []

    class Stamp:
        """A streamer that notes when tokens come; the prompt comes first."""

        def put(self, value: Any) -> None:
            stamps.append(time.monotonic())

        def end(self) -> None:
            pass

    model.generate(
        **inputs, max_new_tokens=n_new_tokens, min_new_tokens=n_new_tokens, do_sample=False, streamer=Stamp()
    )
    print(
        f"request {number}: {inputs['input_ids'].shape[1]} prompt tokens, "
        f"first token {(stamps[1] - begin_s) * 1e3:.2f} ms, all {(time.monotonic() - begin_s) * 1e3:.2f} ms",
        flush=True,
    )


def profiled(what: str) -> Any:
    activities = [torch.profiler.ProfilerActivity.CUDA]
    if what == "all":
        activities.append(torch.profiler.ProfilerActivity.CPU)
    return torch.profiler.profile(activities=activities)


def print_totals(profile: Any, number: int) -> None:
    """Print torch.profiler's counts and sums of one request."""
    totals: dict[str, list[float]] = {"kernel": [0, 0.0], "memcpy": [0, 0.0], "memset": [0, 0.0]}
    for event in profile.events():
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        name = event.name.lower()
        kind = "memcpy" if name.startswith("memcpy") else "memset" if name.startswith("memset") else "kernel"
        totals[kind][0] += 1
        totals[kind][1] += event.time_range.elapsed_us()
    text = ", ".join(f"{kind} {n:.0f} {total_us / 1e3:.3f} ms" for kind, (n, total_us) in totals.items())
    print(f"torch.profiler request {number}: {text}", flush=True)


if __name__ == "__main__":
    main()
