"""Recommend what can be set about the findings of one run: what it cost there was measured, the cure was not tried."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..model.report import Finding, Report, WindowReport
from ..model.taxonomy import Cause
from ..output.plain import plain
from ..output.summary import as_mapping, state_before
from ..units import format_ns
from .node_kinds import THP_ENABLED
from .recommendation import COMPUTED, Recommendation
from .run_settings import CompileCaches, Prefetch
from .setting import NodeFile, Setting, Variable

_THP_DEFRAG = THP_ENABLED.parent / "defrag"
_READ_AHEAD_KB = 4096
_PARTITION = re.compile(r"((?:sd|vd|xvd|hd)[a-z]+|(?:nvme\d+n|mmcblk)\d+(?=p))p?\d+")
# A capture may come from elsewhere, and what is printed here is typed by root: no other names get into it.
_DEVICE = re.compile(r"[a-z0-9-]+")
_WEIGHTS = (".safetensors", ".bin")
# The model's directory is in no report.
_MODEL = Path("YOUR-MODEL")

Settings = tuple[Setting, ...]


def advise(report: Report) -> list[Recommendation]:
    """Return what can be set about a run's findings; of each kind of finding the one that costs most."""
    costliest: dict[str, tuple[WindowReport, Finding]] = {}
    for window in report.windows:
        for finding in window.findings:
            known = costliest.get(finding.id)
            if known is None or finding.predicted_gain_ns > known[1].predicted_gain_ns:
                costliest[finding.id] = window, finding
    advised = [
        _advise(window, finding, cure(report))
        for window, finding in costliest.values()
        if (cure := CURES.get(finding.id)) is not None
    ]
    return [one for one in advised if one.settings]


def _advise(window: WindowReport, finding: Finding, settings: Settings) -> Recommendation:
    gain = f"saves at most {format_ns(finding.predicted_gain_ns)} of {format_ns(window.total_ns)} ({window.label})"
    if finding.id in _SIZED:
        gain += "; the size is computed: the largest copy's"
    confidence = COMPUTED if finding.id in _SIZED else finding.confidence
    return Recommendation(finding.id, f"{plain(finding.evidence, 300)}; {gain}", confidence, settings)


def _defer_compaction(report: Report) -> Settings:
    return (NodeFile(_THP_DEFRAG, "defer+madvise"),)


def _use_huge_pages(report: Report) -> Settings:
    return NodeFile(THP_ENABLED, "madvise"), Variable("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


def _use_jemalloc(report: Report) -> Settings:
    return (Variable("LD_PRELOAD", "libjemalloc.so.2"),)


def _keep_memory(report: Report) -> Settings:
    return Variable("MALLOC_TRIM_THRESHOLD_", "-1"), Variable("MALLOC_MMAP_THRESHOLD_", "4294967296")


def _read_further_ahead(report: Report) -> Settings:
    """Return the readahead of the disks that the weights lie on and that have less."""
    storage = report.state.get("storage")
    found = storage.get("before") if isinstance(storage, dict) else storage
    devices = [as_mapping(as_mapping(one).get("device")) for one in (found if isinstance(found, list) else [])]
    small = [one for one in devices if isinstance(kb := one.get("read_ahead_kb"), int) and kb < _READ_AHEAD_KB]
    names = [name for one in small if _DEVICE.fullmatch(name := str(one.get("name")))]
    disks = sorted({match[1] if (match := _PARTITION.fullmatch(name)) else name for name in names})
    return tuple(NodeFile(Path(f"/sys/block/{disk}/queue/read_ahead_kb"), str(_READ_AHEAD_KB)) for disk in disks)


def _prefetch(report: Report) -> Settings:
    files = state_before(report, "page_cache").get("files")
    names = [str(as_mapping(one).get("name")) for one in (files if isinstance(files, list) else [])]
    weights = tuple(_MODEL / f"weights{kind}" for kind in _WEIGHTS if any(name.endswith(kind) for name in names))
    return (Prefetch(weights),) if weights else ()


def _keep_caches(report: Report) -> Settings:
    """Return a place for compile caches, where one of them was empty and is not any more."""
    caches = as_mapping(report.state.get("compile_caches"))
    before, after = as_mapping(caches.get("before")), as_mapping(caches.get("after"))
    n_before, n_after = (
        {name: int(as_mapping(one).get("n_files") or 0) for name, one in moment.items()} for moment in (before, after)
    )
    return (CompileCaches(),) if any(n_after.get(name) and not n for name, n in n_before.items()) else ()


def _reserve_pinned(report: Report) -> Settings:
    """Return a pool of pinned memory for the largest copy that the run made from host memory."""
    copies = [
        int(share.detail.get("largest_bytes", 0))
        for one in report.windows
        for share in one.causes
        if share.cause in (Cause.H2D_PAGEABLE, Cause.H2D_PINNED)
    ]
    mib = -(-max(copies, default=0) >> 20)
    return (Variable("PYTORCH_CUDA_ALLOC_CONF", f"pinned_reserve_segment_size_mb:{mib}"),) if mib else ()


def _bound_threads(report: Report) -> Settings:
    n_cpus = state_before(report, "cpu").get("n_usable")
    if not isinstance(n_cpus, int):
        return ()
    return Variable("OMP_NUM_THREADS", str(n_cpus)), Variable("TOKENIZERS_PARALLELISM", "false")


# By the id of the finding.
CURES: dict[str, Callable[[Report], Settings]] = {
    "thp_compaction": _defer_compaction,
    "huge_pages_off": _use_huge_pages,
    "arena_contention": _use_jemalloc,
    "memory_churn": _keep_memory,
    "map_churn": _keep_memory,
    "small_readahead": _read_further_ahead,
    "cold_weights": _prefetch,
    "fault_bound_weights": _prefetch,
    "compiled_anew": _keep_caches,
    "pageable_copies": _reserve_pinned,
    "pinning": _reserve_pinned,
    "too_many_threads": _bound_threads,
    "few_threads": _bound_threads,
}
_SIZED = ("pageable_copies", "pinning")
