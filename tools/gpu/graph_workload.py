"""Capture CUDA graphs and replay them over and over, eager work in between: what tools/gpu/graphs.py records.

Usage: graph_workload.py [--replays N]
Prints how often graphs were launched, how many kernels each holds at least, and a digest of all results.
"""

from __future__ import annotations

import argparse
import hashlib
import os

import torch

# Without it, the sums of cuBLAS may differ from run to run (cuBLAS, "Results Reproducibility").
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

# As an engine has graphs for several batch sizes, and replays now one, now another.
BATCHES = (16, 64, 256)
WIDTH = 256
LAYERS = 20


class Step:
    """One captured graph: a copy from pinned memory, then layers of a product and an activation."""

    def __init__(self, batch: int, weight: torch.Tensor) -> None:
        self.source = torch.empty(batch, WIDTH, pin_memory=True)
        self._input = torch.empty(batch, WIDTH, device="cuda")
        self._weight = weight
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._run()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.output = self._run()

    def _run(self) -> torch.Tensor:
        self._input.copy_(self.source, non_blocking=True)
        output = self._input
        for _ in range(LAYERS):
            output = torch.relu(output @ self._weight)
        return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=100)
    args = parser.parse_args()
    torch.manual_seed(0)
    weight = torch.randn(WIDTH, WIDTH, device="cuda") / WIDTH**0.5
    steps = [Step(batch, weight) for batch in BATCHES]
    digest = hashlib.sha256()
    for number in range(args.replays):
        for step in steps:
            step.source.fill_(1 + number)
            step.graph.replay()
            # As sampling does after a replay: eager work, a copy to the host, and a wait.
            total = (step.output * 2).sum(dim=0).cpu()
            digest.update(total.numpy().tobytes())
    torch.cuda.synchronize()
    print(f"launches {args.replays * len(steps)} kernels {2 * LAYERS} digest {digest.hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
