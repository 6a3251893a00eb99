"""Kernel names as people say them: no return type, arguments, namespaces or template noise."""

from __future__ import annotations

import re

# What an elementwise or reduction kernel of PyTorch really does stands in its template arguments.
_OPERATION = re.compile(
    r"(\w+?)(?:_kernel_cuda|_kernel_impl|_kernel)?(?:\(at::TensorIteratorBase ?&|Functor<|Functor\b|Ops?<|_functor\b)"
)
_GENERIC = re.compile(r"elementwise_kernel|reduce_kernel|CatArrayBatchedCopy|index_kernel|distribution_")
_LONGEST = 120


def short_kernel_name(name: str) -> str:
    """Return 'vectorized_elementwise_kernel [Fill]' for the demangled name of such a kernel."""
    head = _without_brackets(name.replace("(anonymous namespace)", "_"))
    base = head.split()[-1].rpartition("::")[2] if head.split() else name
    operation = _OPERATION.search(name) if _GENERIC.search(base) else None
    short = f"{base} [{operation[1]}]" if operation and operation[1] not in base else base
    return (short or name)[:_LONGEST]


def short_function_name(name: str) -> str:
    """Return 'cudaMalloc' for CUPTI's 'cudaMalloc_v3020', 'cuMemAlloc' for 'cuMemAlloc_v2_ptsz'."""
    return re.sub(r"(_v\d+)?(_pt[sd][sz])?(_v\d+)?$", "", name)


def _without_brackets(name: str) -> str:
    """Return what stands outside of <> and before the argument list."""
    kept: list[str] = []
    depth = 0
    for character in name:
        if character == "<":
            depth += 1
        elif character == ">":
            depth = max(depth - 1, 0)
        elif depth == 0:
            if character == "(":
                break
            kept.append(character)
    return "".join(kept).strip()
