"""The state certificate: what of a node decides how fast a model loads and answers, read before and after a run.

It is JSON, and names no host: no environment values, addresses, serial numbers, or paths.
"""

from __future__ import annotations

import getpass
import os
import platform
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from . import procfs
from .gpu_state import read_gpus
from .malloc import find_allocator
from .memory_state import read_cgroup, read_memory, read_numa
from .pagecache import evict_from_page_cache, page_cache_residency
from .storage_state import read_storage

__all__ = ["evict_from_page_cache", "page_cache_residency", "read_state"]

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "vllm", "triton")
# Facts of the kernel command line that matter here; everything else on it stays private.
_CMDLINE_KEYS = frozenset(
    {
        *("iommu", "intel_iommu", "amd_iommu", "iommu.passthrough", "iommu.strict", "swiotlb"),
        *("hugepages", "hugepagesz", "default_hugepagesz", "transparent_hugepage"),
        *("isolcpus", "nohz_full", "rcu_nocbs", "mitigations", "processor.max_cstate", "intel_idle.max_cstate"),
        *("cpuidle.governor", "numa_balancing", "psi"),
    }
)
# Settings whose presence changes how memory is allocated or what is compiled; their names only.
_SETTING_PREFIXES = (
    "MALLOC_",
    "GLIBC_TUNABLES",
    "LD_PRELOAD",
    "PYTORCH_",
    "TORCH",
    "TRITON_",
    "CUDA_",
    "OMP_",
    "VLLM_",
)
_MAX_CACHE_FILES = 20_000


def read_state(weight_files: Sequence[Path | str], pid: int | None = None) -> dict[str, Any]:
    """Read the certificate, with the bindings and limits of process `pid` (ours when None)."""
    files = [Path(path) for path in weight_files]
    process: int | str = "self" if pid is None else pid
    return {
        "page_cache": read_page_cache(files),
        "storage": read_storage((path for path in files if path.exists()), process),
        **read_memory(),
        "numa": read_numa(process),
        "cgroup": read_cgroup(process),
        "pressure_us": procfs.read_pressure(),
        "cpu": read_cpu(),
        "allocator": read_allocator(process),
        "compile_caches": read_compile_caches(),
        "kernel": read_kernel(),
        "gpu": read_gpus(),
        "versions": read_versions(),
    }


def read_page_cache(files: Iterable[Path]) -> dict[str, Any]:
    """Return how much of each file the page cache holds, and of all together; a file that cannot be read says why."""
    entries: list[dict[str, Any]] = []
    for path in files:
        try:
            resident_bytes, size_bytes = page_cache_residency(path)
        except OSError as error:
            entries.append({"name": path.name, "error": error.strerror})
        else:
            entries.append({"name": path.name, "size_bytes": size_bytes, "resident_bytes": resident_bytes})
    size_bytes = sum(entry.get("size_bytes", 0) for entry in entries)
    resident_bytes = sum(entry.get("resident_bytes", 0) for entry in entries)
    return {"resident_fraction": resident_bytes / size_bytes if size_bytes else None, "files": entries}


def read_cpu() -> dict[str, Any]:
    """Return the CPU's model, count, governor and idle states."""
    cpus = Path("/sys/devices/system/cpu")
    return {
        "model": _cpu_model(),
        "machine": platform.machine(),
        "n_cpus": os.cpu_count(),
        "n_usable": len(os.sched_getaffinity(0)),
        "omp_num_threads": int(threads) if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdecimal() else None,
        "smt": procfs.read_text(cpus / "smt" / "control"),
        "governor": procfs.read_text(cpus / "cpu0" / "cpufreq" / "scaling_governor"),
        "energy_preference": procfs.read_text(cpus / "cpu0" / "cpufreq" / "energy_performance_preference"),
        "max_khz": procfs.read_int(cpus / "cpu0" / "cpufreq" / "scaling_max_freq"),
        "idle_driver": procfs.read_text(cpus / "cpuidle" / "current_driver"),
        "idle_governor": procfs.read_text(cpus / "cpuidle" / "current_governor"),
    }


def read_allocator(pid: int | str) -> dict[str, Any]:
    """Return the allocator's name, and which settings of allocators, compilers and runtimes are set, by name."""
    tunables = [setting.partition("=")[0] for setting in os.environ.get("GLIBC_TUNABLES", "").split(":")]
    return {
        "name": find_allocator(os.environ, mapped_files(pid)),
        "libc": " ".join(platform.libc_ver()).strip(),
        "glibc_tunables": sorted(filter(None, tunables)),
        "settings": sorted(name for name in os.environ if name.startswith(_SETTING_PREFIXES)),
    }


def mapped_files(pid: int | str) -> set[str]:
    """Return the paths of the files that a process has mapped; empty: it has none, or they cannot be read."""
    lines = (procfs.read_text(procfs.PROC / str(pid) / "maps") or "").splitlines()
    return {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6 and fields[5].startswith("/")}


def read_compile_caches() -> dict[str, dict[str, Any]]:
    """Return which caches of compiled code are there, with their sizes: a cold one makes a first run slow."""
    environ = os.environ
    home = Path(environ.get("HOME") or "/")
    cache_home = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    inductor = Path(tempfile.gettempdir()) / f"torchinductor_{_user_name()}"
    directories = {
        "torchinductor": Path(environ.get("TORCHINDUCTOR_CACHE_DIR") or inductor),
        "triton": Path(environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"),
        "vllm": Path(environ.get("VLLM_CACHE_ROOT") or cache_home / "vllm") / "torch_compile_cache",
        "torch_extensions": Path(environ.get("TORCH_EXTENSIONS_DIR") or cache_home / "torch_extensions"),
        "flashinfer": Path(environ.get("FLASHINFER_WORKSPACE_BASE") or home) / ".cache" / "flashinfer",
        "cuda": Path(environ.get("CUDA_CACHE_PATH") or home / ".nv" / "ComputeCache"),
    }
    return {name: _directory_size(path) for name, path in directories.items()}


def read_kernel() -> dict[str, Any]:
    """Return the kernel's release, a few known facts of its command line, and how many IOMMU groups there are."""
    words = (procfs.read_text(Path("/proc/cmdline")) or "").split(" -- ")[0].split()
    facts = {key: value for key, _, value in (word.partition("=") for word in words) if key in _CMDLINE_KEYS}
    groups = Path("/sys/kernel/iommu_groups")
    return {
        "release": platform.release(),
        "cmdline": facts,
        "n_iommu_groups": sum(1 for _ in groups.iterdir()) if groups.is_dir() else 0,
        "clocksource": procfs.read_text(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
    }


def read_versions() -> dict[str, str]:
    """Return the versions of the packages that matter, as installed beside us."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str | None:
    for line in (procfs.read_text(Path("/proc/cpuinfo")) or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return None


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in passwd
        return str(os.getuid())


def _directory_size(path: Path) -> dict[str, Any]:
    """Count files and bytes below a directory; of a huge one the first 20,000."""
    n_files = size_bytes = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                size_bytes += (Path(directory) / name).lstat().st_size
            except OSError:
                continue
            n_files += 1
        if n_files >= _MAX_CACHE_FILES:
            break
    return {"exists": path.is_dir(), "n_files": n_files, "size_bytes": size_bytes}
