"""Which decoder reads which source's raw logs."""

from __future__ import annotations

from .base import Decoder
from .clock import decode as decode_clock
from .cuda import decode as decode_cuda
from .ebpf import decode as decode_ebpf
from .malloc import decode as decode_malloc
from .nvml import decode as decode_nvml
from .proc import decode as decode_proc
from .pyspy import decode as decode_pyspy
from .ranges import decode as decode_ranges

DECODERS: dict[str, Decoder] = {
    "clock": decode_clock,
    "cuda": decode_cuda,
    "ebpf": decode_ebpf,
    "malloc": decode_malloc,
    "nvml": decode_nvml,
    "proc": decode_proc,
    "pyspy": decode_pyspy,
    "ranges": decode_ranges,
}
