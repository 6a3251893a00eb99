"""What Kineto calls things (libkineto, `ActivityType.cpp` and `output_json.cpp`), and what they are here."""

from __future__ import annotations

import re

from ..model.events import NO_STAGE, EventKind
from ..model.taxonomy import Stage

_KINDS = {
    "cpu_op": EventKind.RANGE,
    "user_annotation": EventKind.RANGE,
    "python_function": EventKind.RANGE,
    "cuda_runtime": EventKind.CUDA_API,
    "cuda_driver": EventKind.CUDA_API,
    "kernel": EventKind.GPU_KERNEL,
    "gpu_memcpy": EventKind.GPU_MEMCPY,
    "gpu_memset": EventKind.GPU_MEMSET,
}
# An operator is the model's work: the forward pass, as far as such a trace can tell. Code around it prepares it.
_STAGES = {"cpu_op": Stage.PREFILL, "user_annotation": Stage.PREPARE, "python_function": Stage.PREPARE}
# The host waits in these until the GPU is done.
_WAIT = re.compile(r"cu(da)?(Stream|Event|Device|Ctx)Synchronize")
_COPY = re.compile(r"Memcpy ([HDPA])to([HDPA]) \((\w+) -> (\w+)\)")


def kind_of(category: str, name: str) -> EventKind | None:
    """Return what an event of this category is; None for those that repeat others or carry no time of their own."""
    kind = _KINDS.get(category)
    return EventKind.GPU_SYNC if kind is EventKind.CUDA_API and _WAIT.match(name) else kind


def stage_of(category: str) -> int:
    """Return the stage that an event of this category is taken for, or NO_STAGE."""
    return int(_STAGES.get(category, NO_STAGE))


def copy_name(name: str) -> str:
    """Return 'memcpy h2d pageable' for 'Memcpy HtoD (Pageable -> Device)'."""
    match = _COPY.match(name)
    if match is None:
        return name
    memory = sorted({match[3], match[4]} & {"Pageable", "Pinned"})
    return " ".join([f"memcpy {match[1]}2{match[2]}", *memory[:1]]).lower()


def is_pinned(copy: str) -> bool:
    """Say whether a copy's host memory is pinned, by the name that `copy_name` gave it."""
    return copy.endswith(" pinned")
