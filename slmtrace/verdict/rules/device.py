"""Rules about the GPU and first uses: compilation, module loads in a request, copies, the link, clocks, other users."""

from __future__ import annotations

from typing import Any

from ...model.taxonomy import Cause
from ...units import format_bytes, format_ns, format_rate
from ..case import Case
from ..floors import link_rate
from ..rule import Claim, Rule

_COMPILES = (Cause.TORCH_COMPILE, Cause.JIT_COMPILE, Cause.AUTOTUNE)
_FIRST_USES = (Cause.MODULE_LOAD, Cause.LIBRARY_INIT, Cause.FIRST_USE, Cause.CUDA_INIT, Cause.GRAPH_CAPTURE)
_PAGEABLE = (Cause.H2D_PAGEABLE, Cause.STAGING_COPY)
_COPIES = (Cause.H2D_PINNED, *_PAGEABLE)
# What a copy reaches of its link's rate in practice.
_LINK_EFFICIENCY = 0.8
# Another program's memory on a GPU, beyond what a driver and a display take.
_MIN_OTHER_BYTES = 1 << 30
_MIN_CLOCK = 0.7


def _compiles(case: Case) -> Claim | None:
    caches = case.known("compile_caches")
    after = case.known("compile_caches", moment="after")
    grown = [name for name in caches or {} if _n_files(after, name) > _n_files(caches, name)]
    empty = [name for name in grown if not _n_files(caches, name)]
    has_served = any(_n_files(caches, name) for name in caches or {}) and not grown and not _generates_code(case)
    # What is left of torch.compile then is reading what was kept, and checking that it still fits.
    took_ns = case.left((Cause.JIT_COMPILE,) if has_served and case.is_load else _COMPILES)
    what = f"the cache of {', '.join(empty)} was empty before" if empty else ""
    what = what or (f"the cache of {', '.join(grown)} grew" if grown else "no cache of compiled code served it")
    remedy = (
        "start again: what was compiled now should serve it; if not, the engine's log says why (vLLM: 'Compiling model "
        "again')"
        if grown and not empty
        else "keep the caches on a volume that outlives the container: TORCHINDUCTOR_CACHE_DIR, TRITON_CACHE_DIR, "
        "VLLM_CACHE_ROOT, TORCH_EXTENSIONS_DIR"
    )
    while_waiting = ""
    if not case.is_load:
        while_waiting = " while the request waited"
        remedy = f"send a request of this shape before the node takes traffic; and {remedy}"
    return Claim(
        took_ns,
        f"compiled for {format_ns(took_ns)}{while_waiting}: {what}",
        remedy,
        confidence="high" if empty else "medium",
    )


def _generates_code(case: Case) -> bool:
    return case.ns_of("ranges", "inductor codegen", (Cause.TORCH_COMPILE,)) > 0


def _first_uses(case: Case) -> Claim | None:
    """First uses belong to the load: in a request, somebody waits for them."""
    if case.is_load:
        return None
    took_ns = case.left(_FIRST_USES)
    name = case.largest("functions", _FIRST_USES) or case.largest("ranges", _FIRST_USES)
    return Claim(
        took_ns,
        f"the request waited {format_ns(took_ns)} for first uses" + (f", most of all {name}" if name else ""),
        "send a request of this shape before the node takes traffic",
    )


def _link_down(case: Case) -> Claim | None:
    for gpu in gpus(case, "after"):
        width, widest = gpu.get("pcie_width"), gpu.get("pcie_width_max")
        if width and widest and width < widest:
            took_ns = case.left(_COPIES)
            return Claim(
                round(took_ns * (1 - width / widest)),
                f"the GPU's link has {width} of its {widest} lanes",
                "reseat the card or its riser, and look for a slot with all lanes (lspci -vv: LnkSta against LnkCap)",
                confidence="medium",
            )
    return None


def _far_node(case: Case) -> Claim | None:
    """Copies that are slower than the link, of a program that may run on other NUMA nodes than the GPU's alone."""
    usable = case.known("numa", "nodes_usable")
    nodes = {node for node in (usable if isinstance(usable, list) else []) if isinstance(node, int)}
    gpu_nodes = {node for gpu in gpus(case, "before") if isinstance(node := gpu.get("numa_node"), int)}
    size_bytes, rate = case.size_bytes(*_COPIES), link_rate(case) * _LINK_EFFICIENCY
    if not nodes or not gpu_nodes or gpu_nodes & nodes or not size_bytes or not rate:
        return None
    took_ns, gpu_node = case.left(_COPIES), min(gpu_nodes)
    return Claim(
        took_ns - round(size_bytes / rate * 1e9),
        f"copied {format_bytes(size_bytes)} at {format_rate(size_bytes, took_ns)} from NUMA node "
        f"{', '.join(map(str, sorted(nodes)))}, to a GPU of node {gpu_node}",
        f"numactl --cpunodebind={gpu_node} --membind={gpu_node} before the command",
        confidence="medium",
    )


def _pageable(case: Case) -> Claim | None:
    took_ns, rate = case.left(_PAGEABLE), link_rate(case) * _LINK_EFFICIENCY
    size_bytes = case.size_bytes(Cause.H2D_PAGEABLE)
    if not rate or not size_bytes:
        return None
    return Claim(
        took_ns - round(size_bytes / rate * 1e9),
        f"{format_bytes(size_bytes)} were copied from pageable memory at {format_rate(size_bytes, took_ns)}",
        "copy from pinned memory: tensor.pin_memory().to('cuda', non_blocking=True), or load onto the device directly",
    )


def _pinning(case: Case) -> Claim | None:
    took_ns = case.left((Cause.PIN_MEMORY,))
    return Claim(
        took_ns,
        f"pinning host memory took {format_ns(took_ns)}",
        "pin less, once: reuse one pinned buffer for all copies, or back it by huge pages",
        confidence="medium",
    )


def _clocks(case: Case) -> Claim | None:
    took_ns = case.left((Cause.GPU_KERNEL,))
    for gpu in gpus(case, "after"):
        clock, highest = gpu.get("sm_clock_mhz"), gpu.get("sm_clock_max_mhz")
        if clock and highest and clock < _MIN_CLOCK * highest and gpu.get("throttle_reasons", 0) & ~_IDLE:
            return Claim(
                round(took_ns * (1 - clock / highest)),
                f"the GPU ran at {clock} of {highest} MHz, and says that it is held back",
                "nvidia-smi -q -d PERFORMANCE names the reason; nvidia-smi -rgc and -rac lift locked clocks",
                confidence="medium",
            )
    return None


def _shared_gpu(case: Case) -> Claim | None:
    used = [int(gpu.get("memory_used_bytes") or 0) for gpu in gpus(case, "before")]
    usual_ns = case.usual_ns((Cause.GPU_KERNEL,))
    if max(used, default=0) < _MIN_OTHER_BYTES or not usual_ns:
        return None
    return Claim(
        case.left((Cause.GPU_KERNEL,)) - usual_ns,
        f"kernels took longer than in other requests, and {format_bytes(max(used))} of the GPU were in use before",
        "stop the other program (nvidia-smi lists it), or give each a GPU of its own",
        confidence="low",
    )


# nvmlClocksEventReasonGpuIdle
_IDLE = 1


def gpus(case: Case, moment: str) -> list[dict[str, Any]]:
    found = case.known("gpu", "gpus", moment=moment)
    return [gpu for gpu in found if isinstance(gpu, dict)] if isinstance(found, list) else []


def _n_files(caches: Any, name: str) -> int:
    return int((caches or {}).get(name, {}).get("n_files", 0))


RULES = (
    Rule("compiled_anew", _COMPILES, _compiles),
    Rule("first_use_in_request", _FIRST_USES, _first_uses),
    Rule("link_degraded", _COPIES, _link_down),
    Rule("wrong_numa_node", _COPIES, _far_node),
    Rule("pageable_copies", _PAGEABLE, _pageable),
    Rule("pinning", (Cause.PIN_MEMORY,), _pinning),
    Rule("gpu_clocks", (Cause.GPU_KERNEL,), _clocks),
    Rule("gpu_shared", (Cause.GPU_KERNEL,), _shared_gpu, is_work=True),
)
