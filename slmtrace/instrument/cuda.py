"""The Python side of recording CUDA: find libcupti before anything needs it, and flush when a window has ended.

The recording itself is probes/cuda_shim.c, which the CUDA driver loads.
"""

from __future__ import annotations

import os
import sys

from . import environment
from .recorder import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Where NVIDIA's Python packages put it, below a directory of packages.
_PLACES = ("nvidia/cu13/lib/libcupti.so.13", "nvidia/cuda_cupti/lib/libcupti.so.13")

_shim: Any = None


def prepare() -> None:
    """Name the libcupti that PyTorch will load, for the recorder and for the NVTX library.

    NVTX must be told of the very file that is loaded: of another copy, no range would ever arrive.
    """
    path = find_cupti(sys.path)
    if path:
        os.environ[environment.CUPTI] = path
        if not any(os.environ.get(name) for name in environment.NVTX_TOOLS):
            os.environ[environment.NVTX_TOOLS[0]] = path


def find_cupti(directories: Iterable[str]) -> str:
    """Return the path of libcupti among installed packages, '' if there is none."""
    for directory in directories:
        for place in _PLACES:
            path = os.path.join(directory, place)
            if os.path.exists(path):
                return path
    return ""


def flush() -> None:
    """Hand over what CUPTI has collected, if this process uses CUDA; a window has just ended."""
    global _shim
    # The driver loads the recorder through its own name; PyTorch has imported ctypes long before.
    ctypes = sys.modules.get("ctypes")
    if ctypes is None or not os.environ.get(environment.CUDA):
        return
    try:
        if _shim is None:
            _shim = ctypes.CDLL(os.environ["CUDA_INJECTION64_PATH"], mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        _shim.slmtrace_cuda_flush()
    except (OSError, KeyError, AttributeError) as error:
        complain(error)
