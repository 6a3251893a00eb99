"""What to do about a check that a certificate does not pass, by the check's name or the first words of it."""

from __future__ import annotations

_REMEDIES = {
    "time": "slmtrace run says where the time goes; a large model needs a longer --limit",
    "floor disk": "look for who else uses it (iostat -x 1) and for a limit of the volume, or take a faster disk",
    "floor memory": "look for who else uses the memory, and whether it is on the CPU's own NUMA node (numastat)",
    "floor h2d": "look at the PCIe generation and width: nvidia-smi -q",
    "cold load storage": "slmtrace run --cold says which files were waited for",
    "CPU contention": "look for who takes the CPUs (top), and give the model CPUs of its own (taskset, a cpuset)",
    "CPU quota": "raise the CPU limit: cpu.max, for a container its cpu limit",
    "memory pressure": "free memory or raise the limit of the cgroup, and leave huge pages to madvise",
    "page cache": "leave enough memory free for the weights, in the cgroup as well",
    "RSS drift": "slmtrace run --malloc slow says what is allocated; try jemalloc: slmtrace sweep allocator",
    "steadiness": "slmtrace run --requests 20 says what the slow requests waited for",
    "memory available": "free memory, or raise the limit: memory.max, for a container its memory limit",
    "cgroup reads": "lift it: rbps=max in io.max, in version 1 a 0 in blkio.throttle.read_bps_device",
    "readahead": "blockdev --setra 8192 DEVICE",
    "huge pages": "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled, and the same for defrag",
    "CPU governor": "cpupower frequency-set -g performance",
    "cgroup CPUs": "raise the CPU limit: cpu.max, for a container its cpu limit",
    "evidence": "slmtrace doctor says what is missing",
    "baseline": "record a run on both nodes, and compare them: slmtrace diff GOOD THIS",
}


def find_remedy(check_name: str) -> str:
    """Return what to do about a check of this name; '': nothing is known."""
    return next((remedy for words, remedy in _REMEDIES.items() if check_name.startswith(words)), "")
