"""Copy host memory to the GPU, pageable and pinned: what tools/gpu/second.sh records to compare dma with a stopwatch.

Usage: copy_workload.py [--megabytes N] [--copies N]
"""

from __future__ import annotations

import argparse
import time

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--copies", type=int, default=8)
    args = parser.parse_args()
    size_bytes = args.megabytes << 20
    target = torch.empty(size_bytes, dtype=torch.uint8, device="cuda")
    pageable = torch.ones(size_bytes, dtype=torch.uint8)
    begin_s = time.monotonic()
    pinned = pageable.pin_memory()
    print(f"pinning {args.megabytes} MB took {(time.monotonic() - begin_s) * 1e3:.1f} ms", flush=True)
    for name, source in (("pageable", pageable), ("pinned", pinned)):
        torch.cuda.synchronize()
        begin_s = time.monotonic()
        for _ in range(args.copies):
            target.copy_(source, non_blocking=True)
        torch.cuda.synchronize()
        took_s = time.monotonic() - begin_s
        moved = size_bytes * args.copies
        print(f"{name}: {moved} bytes in {took_s * 1e3:.3f} ms, {moved / took_s / 1e9:.2f} GB/s", flush=True)


if __name__ == "__main__":
    main()
