"""Try whether eBPF works here, and say what is missing and what would help."""

from __future__ import annotations

import errno
import os
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

from .btf import VMLINUX
from .kernel import try_raw_tracepoint
from .programs import explain_errno
from .tracefs import find_tracefs

_INIT_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO in include/linux/proc_ns.h


class Problem(NamedTuple):
    """What is missing, and the exact remedy."""

    reason: str
    remedy: str
    is_for_root: bool = False  # another user could


def find_problem() -> Problem | None:
    """Return why nothing can be recorded here, or None."""
    if platform.machine() not in ("x86_64", "aarch64"):
        return Problem(f"{platform.machine()} is not supported", "use an x86-64 or arm64 machine")
    if not VMLINUX.exists():
        return Problem(f"this kernel has no BTF ({VMLINUX})", "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y")
    try:
        try_raw_tracepoint("sched_process_fork")
    except OSError as error:
        return _explain_refusal(error)
    if Path("/proc/self/ns/pid").stat().st_ino != _INIT_PID_NAMESPACE:
        return Problem(
            "this process lives in a PID namespace, so it does not know threads by the kernel's numbers",
            "start the container with --pid=host, or record from the host",
        )
    return None


def check() -> dict[str, Any]:
    """Return the answer of Probe.check() as JSON."""
    problem = find_problem()
    detail = {"interpreter": sys.executable, "bcc": _bcc_version(), "kernel": platform.release()}
    if problem:
        answer = {"reason": problem.reason, "remedy": problem.remedy, "is_for_root": problem.is_for_root}
        return {"status": "unavailable", "detail": detail, **answer}
    try:
        find_tracefs()
    except OSError as error:
        reason = f"tracefs cannot be mounted ({error}): nothing about the page cache, compaction and reclaim"
        remedy = "mount -t tracefs tracefs /sys/kernel/tracing"
        return {"status": "partial", "reason": reason, "remedy": remedy, "detail": detail}
    return {"status": "ok", "reason": "", "remedy": "", "detail": detail}


def _explain_refusal(error: OSError) -> Problem:
    if error.errno in (errno.EPERM, errno.EACCES):
        if os.geteuid() != 0:
            return Problem(
                "loading BPF programs needs privileges",
                "run slmtrace with sudo, or let sudo ask you for no password, or name the socket of root's slmtrace "
                "collector with --collector-socket, or give it CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and "
                "CAP_DAC_READ_SEARCH",
                is_for_root=True,
            )
        return Problem(
            f"loading BPF programs is refused: {explain_errno(errno.EPERM, '')}",
            "in a container add --privileged, or the capabilities BPF, PERFMON, SYS_PTRACE and DAC_READ_SEARCH and a "
            "seccomp profile that allows bpf and perf_event_open; else ask the host's administrator",
        )
    if error.errno == errno.ENOSYS:
        return Problem("this kernel has no bpf system call", "boot a kernel built with CONFIG_BPF_SYSCALL=y")
    return Problem(f"a BPF program cannot be attached: {error.strerror}", "use Linux 5.8 or newer")


def _bcc_version() -> str:
    import bcc

    return str(getattr(bcc, "__version__", "unknown"))
