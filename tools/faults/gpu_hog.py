"""Keep a GPU busy with products of large matrices until killed, or until the parent is gone."""

from __future__ import annotations

import os
import sys

import torch

_SIZE = 8192  # of matrices of 16 bits: 128 MiB each, some milliseconds a product
_HELD_BYTES = 2 << 30  # what a small model beside it would hold
_QUEUED = 8

if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("no GPU")
    parent = os.getppid()
    held = torch.empty(_HELD_BYTES, dtype=torch.uint8, device="cuda")
    matrix = torch.ones(_SIZE, _SIZE, dtype=torch.float16, device="cuda")
    torch.matmul(matrix, matrix)
    torch.cuda.synchronize()
    print("ready", flush=True)
    while os.getppid() == parent:
        for _ in range(_QUEUED):
            torch.matmul(matrix, matrix)
        torch.cuda.synchronize()
