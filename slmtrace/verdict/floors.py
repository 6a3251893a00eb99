"""Floors: what physics allows for the work that a window did, from rates measured on this node or in the run itself."""

from __future__ import annotations

from ..model.report import Floor
from ..model.taxonomy import Cause, Phase, Stage
from ..units import format_bytes, format_count, format_ns, format_rate
from .case import Case
from .facts import DEVICE_WAITS

COPIES = (Cause.H2D_PAGEABLE, Cause.H2D_PINNED, Cause.STAGING_COPY)
# Where nobody measured the tokenizer: a compiled one makes some 200,000 tokens a second on one core of a server.
TOKENS_PER_SECOND = 100_000
_SECOND_NS = 1_000_000_000
# GB/s of one PCIe lane by generation, after encoding (PCI Express Base Specification).
_LANE_BYTES_PER_SECOND = {1: 250e6, 2: 500e6, 3: 985e6, 4: 1969e6, 5: 3938e6, 6: 7563e6}


def floors(case: Case) -> list[Floor]:
    """Return the floors of a window for which there is both work and a rate."""
    found = [_device(case), _cached_reads(case), _faults(case), _tokens(case), _copies(case)]
    return [floor for floor in found if floor is not None]


def device_floor_ns(case: Case, size_bytes: int) -> int:
    """Return how long the device needs for so many bytes at its measured rate; 0 if nobody measured it."""
    rate = case.number("floors", "disk_bytes_per_second")
    return round(size_bytes / rate * _SECOND_NS) if rate else 0


def token_floor_ns(case: Case) -> int:
    """Return how long a compiled tokenizer needs for the window's tokens, and what a call costs by itself."""
    rate = case.number("floors", "tokenizer_tokens_per_second") or TOKENS_PER_SECOND
    return round(case.facts.n_tokens / rate * _SECOND_NS)


def link_rate(case: Case) -> float:
    """Return the bytes a second that the link to the first GPU can carry: as measured, else by its widest setting."""
    measured = case.number("floors", "h2d_bytes_per_second")
    gpus = case.known("gpu", "gpus") or [{}]
    lane = _LANE_BYTES_PER_SECOND.get(int(gpus[0].get("pcie_generation_max") or 0), 0.0)
    return measured or lane * int(gpus[0].get("pcie_width_max") or 0)


def _device(case: Case) -> Floor | None:
    size_bytes, actual_ns = case.size_bytes(*DEVICE_WAITS), sum(case.share(cause).ns for cause in DEVICE_WAITS)
    floor_ns = device_floor_ns(case, size_bytes)
    if not floor_ns:
        return None
    basis = f"{format_bytes(size_bytes)} at {format_rate(size_bytes, floor_ns)}, measured on this device"
    return Floor("reads from the device", Phase.STORAGE, floor_ns, actual_ns, basis)


def _cached_reads(case: Case) -> Floor | None:
    share, rate = case.share(Cause.FILE_READ_COPY), case.number("floors", "memory_bytes_per_second")
    if not share.size_bytes or not rate:
        return None
    floor_ns = round(share.size_bytes / rate * _SECOND_NS)
    basis = f"{format_bytes(share.size_bytes)} at {format_rate(share.size_bytes, floor_ns)}, measured on this memory"
    return Floor("copies of cached file data", Phase.STORAGE, floor_ns, share.ns, basis)


def _faults(case: Case) -> Floor | None:
    share, cost_ns = case.share(Cause.ANON_FAULT), case.facts.fault_ns
    if not cost_ns or not share.count:
        return None
    basis = f"{format_count(share.count)} faults at {format_ns(cost_ns)}, the fastest tenth of this run"
    return Floor("faults on fresh memory", Phase.ALLOCATOR, min(share.count * cost_ns, share.ns), share.ns, basis)


def _tokens(case: Case) -> Floor | None:
    n_tokens, rate = case.facts.n_tokens, case.number("floors", "tokenizer_tokens_per_second")
    stage_ns = sum(share.ns for share in case.window.stages if share.stage is Stage.TOKENIZE)
    if not n_tokens or not rate:
        return None
    basis = f"{format_count(n_tokens)} tokens at {format_count(round(rate))}/s, measured on this node"
    return Floor("tokenizing", Phase.RUNTIME, token_floor_ns(case), stage_ns, basis)


def _copies(case: Case) -> Floor | None:
    size_bytes, rate = case.size_bytes(*COPIES), link_rate(case)
    if not size_bytes or not rate:
        return None
    floor_ns = round(size_bytes / rate * _SECOND_NS)
    basis = f"{format_bytes(size_bytes)} at {format_rate(size_bytes, floor_ns)}, what the link carries"
    return Floor("copies to the GPU", Phase.DMA, floor_ns, sum(case.share(cause).ns for cause in COPIES), basis)
