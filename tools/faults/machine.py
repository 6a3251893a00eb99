"""Faults of the machine: page cache, block device, memory, CPUs. Most need root."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

from slmtrace.probes.pagecache import evict_from_page_cache
from slmtrace.units import format_bytes

from .base import Fault, Impossible, Setting

_CGROUP = Path("/sys/fs/cgroup")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")
_READ_BYTES_PER_SECOND = 60_000_000
_CPU_PERIOD_US = 100_000
_CPU_SHARE = 0.6
_COMPACTION_AHEAD = Path("/proc/sys/vm/compaction_proactiveness")
# What stays whole of free memory while it is cut into pieces: the kernel's own reserve, before it drops cached files.
_SPARE_BYTES = 256 << 20
_HOGS_PER_CPU = 2


def _evict_weights(setting: Setting) -> None:
    files = setting.weights()
    resident_bytes, size_bytes = evict_from_page_cache(files)
    setting.changes.append(f"dropped {format_bytes(size_bytes - resident_bytes)} of weights from the page cache")


def _evict_libraries(setting: Setting) -> None:
    site_packages = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
    packages = [base / name for base in site_packages for name in ("torch", "transformers", "tokenizers", "numpy")]
    files = [path for package in packages for path in package.rglob("*") if path.suffix in (".so", ".pyc")]
    resident_bytes, size_bytes = evict_from_page_cache(path for path in files if path.is_file())
    dropped = format_bytes(size_bytes - resident_bytes)
    setting.changes.append(f"dropped {dropped} of {len(files)} libraries and compiled Python files")


def _throttle_reads(setting: Setting) -> None:
    _evict_weights(setting)
    device = setting.weights()[0].stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    cgroup = _make_cgroup(setting, "blkio", "io")
    if (cgroup / "io.max").exists():
        _set(cgroup / "io.max", f"{number} rbps={_READ_BYTES_PER_SECOND}")
    else:
        _set(cgroup / "blkio.throttle.read_bps_device", f"{number} {_READ_BYTES_PER_SECOND}")
    setting.changes.append(f"limited reads of device {number} to {_READ_BYTES_PER_SECOND // 1_000_000} MB/s")


def _shrink_readahead(setting: Setting) -> None:
    _evict_weights(setting)
    device = setting.weights()[0].stat().st_dev
    queue = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    queue = (queue.parent if (queue / "partition").exists() else queue) / "queue" / "read_ahead_kb"
    if not queue.exists():
        raise Impossible("the model does not lie on a block device")
    setting.undo.write_back(queue)
    was = queue.read_text().strip()
    _set(queue, "4")
    setting.changes.append(f"set the readahead of the model's device from {was} to 4 KiB")


def _limit_memory(setting: Setting) -> None:
    """Give the command less memory than its heap and its weights together: the page cache must give way."""
    weights_bytes = sum(path.stat().st_size for path in setting.weights())
    limit_bytes = _HEAP_BYTES + weights_bytes // 4
    cgroup = _make_cgroup(setting, "memory", "memory")
    if (cgroup / "memory.high").exists():
        _set(cgroup / "memory.high", str(limit_bytes))
    else:
        _set(cgroup / "memory.limit_in_bytes", str(limit_bytes))
    _evict_weights(setting)  # pages that others brought in are charged to them
    setting.changes.append(f"limited memory to {format_bytes(limit_bytes)}")


# What the program, its recording and their analysis need at once, without files that could be read again.
_HEAP_BYTES = 640 << 20


def _read_ahead_of_time(setting: Setting) -> None:
    for path in setting.weights():
        path.read_bytes()
    setting.changes.append("read the weights ahead of the start")


def _lift_limits(setting: Setting) -> None:
    """Take the limits off the command's cgroups."""
    for cgroup in setting.cgroups:
        for name, text in _UNLIMITED.items():
            if (cgroup / name).exists():
                _set(cgroup / name, text)
    device = setting.model.stat().st_dev if setting.model else 0
    for cgroup in setting.cgroups:
        number = f"{os.major(device)}:{os.minor(device)}"
        if (cgroup / "io.max").exists():
            _set(cgroup / "io.max", f"{number} rbps=max")
        if (cgroup / "blkio.throttle.read_bps_device").exists():
            _set(cgroup / "blkio.throttle.read_bps_device", f"{number} 0")
    setting.changes.append("lifted the limits again")


_UNLIMITED = {
    "cpu.max": "max",
    "cpu.cfs_quota_us": "-1",
    "memory.high": "max",
    "memory.limit_in_bytes": "-1",
}


def _widen_readahead(setting: Setting) -> None:
    device = setting.weights()[0].stat().st_dev
    path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    _set((path.parent if (path / "partition").exists() else path) / "queue" / "read_ahead_kb", "4096")
    setting.changes.append("set the readahead to 4096 KiB (blockdev --setra 8192)")


def _defer_compaction(setting: Setting) -> None:
    _set(_HUGE_PAGES / "defrag", "defer+madvise")
    setting.changes.append("set the defragmentation of huge pages to defer+madvise")


def _fragment(setting: Setting) -> None:
    """Leave one page of every eight in use all over free memory: no huge page can be had without moving pages."""
    free_bytes = _meminfo_bytes("MemFree") - _SPARE_BYTES
    if free_bytes < 1 << 30:
        raise Impossible("too little memory is free")
    _start_and_wait(setting, "memory could not be cut into pieces", "tools.faults.fragment", str(free_bytes))
    setting.changes.append(f"cut {format_bytes(free_bytes)} of memory into pieces of 28 KiB")


def _always_huge_pages(setting: Setting) -> None:
    for name in ("enabled", "defrag"):
        setting.undo.write_back(_HUGE_PAGES / name)
        _set(_HUGE_PAGES / name, "always")
    setting.changes.append("set transparent huge pages and their defragmentation to always")


def _compaction(setting: Setting) -> None:
    """Leave compaction to whoever needs a huge page: kcompactd would have done it before, within half a second."""
    setting.undo.write_back(_COMPACTION_AHEAD)
    _set(_COMPACTION_AHEAD, "0")
    _fragment(setting)
    _always_huge_pages(setting)


def _fragmentation_alone(setting: Setting) -> None:
    _fragment(setting)
    setting.undo.write_back(_HUGE_PAGES / "enabled")
    _set(_HUGE_PAGES / "enabled", "madvise")


def _hog_cpus(setting: Setting) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    for cpu in cpus:
        for _ in range(_HOGS_PER_CPU):
            hog = _start(setting, "tools.faults.hog")
            os.sched_setaffinity(hog.pid, {cpu})
    setting.changes.append(f"started {_HOGS_PER_CPU} busy processes on each of {len(cpus)} CPUs")


def _share_gpu(setting: Setting) -> None:
    _start_and_wait(setting, "no GPU that torch can use", "tools.faults.gpu_hog")
    setting.changes.append("started a process that multiplies matrices on the GPU without rest")


def _limit_cpu(setting: Setting) -> None:
    """Limit the command by a quota alone: the most weight sees to it that others do not limit it first."""
    quota_us = round(_CPU_SHARE * _CPU_PERIOD_US)
    cgroup = _make_cgroup(setting, "cpu", "cpu")
    if (cgroup / "cpu.max").exists():
        _set(cgroup / "cpu.weight", "10000")
        _set(cgroup / "cpu.max", f"{quota_us} {_CPU_PERIOD_US}")
    else:
        _set(cgroup / "cpu.shares", "262144")
        _set(cgroup / "cpu.cfs_quota_us", str(quota_us))
    setting.changes.append(f"limited the command to {_CPU_SHARE:g} CPUs")


def _make_cgroup(setting: Setting, *controllers: str) -> Path:
    """Make a cgroup for the command below the root, under version 1 or 2 of the controller.

    Raises:
        Impossible: there is no such controller, or no right to it.
    """
    name = f"slmtrace-fault-{uuid.uuid4().hex[:8]}"
    version1 = [_CGROUP / controller for controller in controllers if (_CGROUP / controller / "cgroup.procs").exists()]
    cgroup = (version1[0] if version1 else _CGROUP) / name
    setting.undo.remove_cgroup(cgroup)
    try:
        if not version1:
            _set(_CGROUP / "cgroup.subtree_control", f"+{controllers[-1]}")
        cgroup.mkdir()
    except OSError as error:
        raise Impossible(f"no cgroup with {controllers[-1]}: {error}") from error
    setting.cgroups.append(cgroup)
    return cgroup


def _start(setting: Setting, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE)
    setting.undo.kill(process.pid)
    return process


def _start_and_wait(setting: Setting, failure: str, module: str, *arguments: str) -> None:
    """Start a module, and wait until it says that it is ready.

    Raises:
        Impossible: it ended before; the text is `failure`.
    """
    process = _start(setting, module, *arguments)
    assert process.stdout is not None
    if process.stdout.readline().strip() != b"ready":
        raise Impossible(failure)


def _set(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise Impossible(f"{path}: {error.strerror}") from error


def _meminfo_bytes(name: str) -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


_WAITS = ("block_io_wait", "major_fault", "readahead_wait")
# Weights that are mapped are read in part by the first forward pass.
_READING = ("load", "first ttft")

FAULTS = (
    Fault(
        "cold_weights",
        "weights not in the page cache",
        _evict_weights,
        _WAITS,
        ("cold_weights",),
        _READING,
        cure=_read_ahead_of_time,
    ),
    Fault(
        "cold_libraries", "libraries and .pyc files not in the page cache", _evict_libraries, _WAITS, ("cold_files",)
    ),
    Fault(
        "io_throttled",
        "a cgroup's limit on reads",
        _throttle_reads,
        _WAITS,
        ("io_throttled",),
        _READING,
        cure=_lift_limits,
    ),
    Fault(
        "small_readahead",
        "4 KiB of readahead",
        _shrink_readahead,
        _WAITS,
        ("small_readahead",),
        _READING,
        cure=_widen_readahead,
    ),
    Fault(
        "memory_limit",
        "a memory limit below heap and weights",
        _limit_memory,
        ("reclaim", *_WAITS, "file_minor_fault"),  # what was unmapped to be dropped, and was not, is mapped again
        ("memory_limit",),
        (*_READING, "ttft"),
        cure=_lift_limits,
        needs_engine="hf",  # whose heap it is measured by
    ),
    Fault(
        "thp_compaction",
        "huge pages always, free memory in pieces",
        _compaction,
        ("compaction",),
        ("thp_compaction",),
        cure=_defer_compaction,
    ),
    Fault("fragmentation", "free memory in pieces, huge pages on request (does no harm)", _fragmentation_alone, (), ()),
    Fault(
        "cpu_hog",
        "busy processes on every CPU",
        _hog_cpus,
        ("run_queue",),
        ("cpu_contention",),
        ("load", "ttft"),
    ),
    Fault(
        "cpu_quota",
        "a cgroup's CPU quota",
        _limit_cpu,
        ("cpu_throttled", "run_queue"),
        ("cpu_quota",),
        ("load", "ttft"),
        cure=_lift_limits,
    ),
    Fault(
        "gpu_shared",
        "another process computes on the GPU",
        _share_gpu,
        ("gpu_kernel",),
        ("gpu_shared",),
        ("ttft",),
        is_tested=False,
    ),
)
