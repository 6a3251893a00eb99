"""Print which of the packages that the GPU runs need are here, and which libcupti would be used."""

from __future__ import annotations

import importlib
import sys

from slmtrace.instrument.cuda import find_cupti

PACKAGES = (
    *("torch", "transformers", "accelerate", "vllm", "numpy", "click", "rich", "google.protobuf", "perfetto.protos"),
    *("psutil", "pynvml", "nvtx", "bcc"),
)


def main() -> None:
    print(sys.version)
    for name in PACKAGES:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken package is what this is here to show
            print("MISSING", name, f"{type(error).__name__}: {error}")
        else:
            print(name, getattr(module, "__version__", ""), getattr(module, "__file__", ""))
    print("libcupti", find_cupti(sys.path))


if __name__ == "__main__":
    main()
