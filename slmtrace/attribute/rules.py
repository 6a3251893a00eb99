"""Which evidence means which cause. The one place to change a phase rule.

Evidence comes in layers, innermost first: what the kernel did wins over the call that asked for it, the call over the
range that made it. `ON_CPU` says what a stretch of running is; `WAITING` what a stretch of waiting is.
"""

from __future__ import annotations

import enum
import re

import numpy as np
from numpy.typing import NDArray

from ..capture.layout import FAULT_FILE, FAULT_HUGE, FAULT_MAJOR, FoldClass
from ..model.events import SYSCALL_ON_GIL, EventKind, Events
from ..model.strings import Strings
from ..model.taxonomy import Cause, Phase, Stage


class Evidence(enum.IntEnum):
    """What an event shows, as far as causes care."""

    NONE = 0
    RANGE = 1
    IMPORT = 2
    ANON_FAULT = 10
    HUGE_FAULT = 11
    FILE_FAULT = 12
    MAJOR_FAULT = 13
    COMPACTION = 14
    RECLAIM = 15
    READ = 20
    ALLOC = 21
    OPEN_STAT = 22
    FUTEX = 23
    SLEEP = 24
    MESSAGE = 25
    SPAWN = 26
    CHILD = 27
    YIELD = 28
    SYSCALL = 29
    MALLOC = 30
    GIL = 31
    ARENA = 32
    SPIN = 33
    CUDA_INIT = 40
    CUDA_MODULE = 41
    CUDA_MALLOC = 42
    CUDA_PIN = 43
    CUDA_COPY = 44
    CUDA_GRAPH = 45
    CUDA_JIT = 46
    CUDA_LAUNCH = 47
    CUDA_SYNC = 48
    CUDA_CALL = 49


class State(enum.IntEnum):
    """What a thread was doing in a stretch of the critical path."""

    RUN = 0  # on a CPU
    RUNNABLE = 1  # wanted a CPU
    SPAWN = 2  # a new thread or process that had not run yet
    IO_WAIT = 3  # waited for block I/O
    KERNEL_WAIT = 4  # uninterruptible, but not for block I/O
    TIMER_WAIT = 5  # woken by a timer
    OUTSIDE_WAIT = 6  # woken by something outside the traced tree
    UNKNOWN_WAIT = 7  # nobody saw who woke it
    NO_SCHED = 8  # no scheduler evidence for this stretch
    HELD_WAIT = 9  # waited for a lock that is nobody's message: whoever held it only happened to
    THROTTLED = 10  # wanted a CPU and was not allowed one


# None: the stage says what running inside it is (taxonomy.STAGES).
ON_CPU: dict[Evidence, Cause | None] = {
    Evidence.NONE: None,
    Evidence.RANGE: None,
    Evidence.IMPORT: Cause.IMPORT,
    Evidence.ANON_FAULT: Cause.ANON_FAULT,
    Evidence.HUGE_FAULT: Cause.THP_FAULT,
    Evidence.FILE_FAULT: Cause.FILE_MINOR_FAULT,
    Evidence.MAJOR_FAULT: Cause.MAJOR_FAULT,
    Evidence.COMPACTION: Cause.COMPACTION,
    Evidence.RECLAIM: Cause.RECLAIM,
    Evidence.READ: Cause.FILE_READ_COPY,
    Evidence.ALLOC: Cause.MMAP_CALL,
    Evidence.OPEN_STAT: Cause.OPEN_STAT,
    Evidence.FUTEX: Cause.LOCK_WAIT,
    Evidence.SLEEP: Cause.LOCK_WAIT,
    Evidence.MESSAGE: Cause.IPC,
    Evidence.SPAWN: Cause.PROCESS_SPAWN,
    Evidence.CHILD: Cause.PROCESS_SPAWN,
    Evidence.YIELD: Cause.LOCK_WAIT,
    Evidence.SYSCALL: Cause.OTHER_SYSCALL,
    Evidence.MALLOC: Cause.MALLOC_SLOW,
    Evidence.GIL: Cause.GIL_WAIT,
    Evidence.ARENA: Cause.ARENA_WAIT,
    # Whom a spin waited for, the path knows; where nobody was, a sample is too little to call it a wait.
    Evidence.SPIN: None,
    Evidence.CUDA_INIT: Cause.CUDA_INIT,
    Evidence.CUDA_MODULE: Cause.MODULE_LOAD,
    Evidence.CUDA_MALLOC: Cause.CUDA_MALLOC,
    Evidence.CUDA_PIN: Cause.PIN_MEMORY,
    Evidence.CUDA_COPY: Cause.STAGING_COPY,
    Evidence.CUDA_GRAPH: Cause.GRAPH_CAPTURE,
    Evidence.CUDA_JIT: Cause.JIT_COMPILE,
    Evidence.CUDA_LAUNCH: Cause.LAUNCH,
    Evidence.CUDA_SYNC: Cause.GPU_KERNEL,
    Evidence.CUDA_CALL: Cause.LAUNCH,
}

# The first entry of each state is for evidence that the state does not name.
WAITING: dict[State, tuple[Cause, dict[Evidence, Cause]]] = {
    State.RUNNABLE: (Cause.RUN_QUEUE, {}),
    State.THROTTLED: (Cause.CPU_THROTTLED, {}),
    State.SPAWN: (Cause.PROCESS_SPAWN, {}),
    State.IO_WAIT: (
        Cause.BLOCK_IO_WAIT,
        # A wait for a page that readahead has in flight counts as a minor fault in the kernel's books
        # (mm/filemap.c: only the task that starts the read reports VM_FAULT_MAJOR).
        {Evidence.FILE_FAULT: Cause.READAHEAD_WAIT, Evidence.MAJOR_FAULT: Cause.MAJOR_FAULT},
    ),
    State.KERNEL_WAIT: (
        Cause.LOCK_WAIT,
        {
            Evidence.ANON_FAULT: Cause.MMAP_LOCK_WAIT,
            Evidence.HUGE_FAULT: Cause.MMAP_LOCK_WAIT,
            Evidence.FILE_FAULT: Cause.MMAP_LOCK_WAIT,
            Evidence.MAJOR_FAULT: Cause.MAJOR_FAULT,
            Evidence.ALLOC: Cause.MMAP_LOCK_WAIT,
            Evidence.COMPACTION: Cause.COMPACTION,
            Evidence.RECLAIM: Cause.RECLAIM,
            Evidence.READ: Cause.BLOCK_IO_WAIT,
            Evidence.OPEN_STAT: Cause.OPEN_STAT,
            Evidence.SPAWN: Cause.PROCESS_SPAWN,
        },
    ),
    State.TIMER_WAIT: (Cause.LOCK_WAIT, {Evidence.RECLAIM: Cause.RECLAIM, Evidence.COMPACTION: Cause.COMPACTION}),
    State.OUTSIDE_WAIT: (
        Cause.EXTERNAL,
        {
            Evidence.MAJOR_FAULT: Cause.MAJOR_FAULT,
            Evidence.FILE_FAULT: Cause.READAHEAD_WAIT,
            Evidence.ALLOC: Cause.MMAP_LOCK_WAIT,
            Evidence.RECLAIM: Cause.RECLAIM,
            Evidence.COMPACTION: Cause.COMPACTION,
        },
    ),
    State.UNKNOWN_WAIT: (
        Cause.NO_EVIDENCE,
        {Evidence.FUTEX: Cause.LOCK_WAIT, Evidence.SLEEP: Cause.LOCK_WAIT, Evidence.ALLOC: Cause.MMAP_LOCK_WAIT},
    ),
    State.HELD_WAIT: (Cause.LOCK_WAIT, {Evidence.GIL: Cause.GIL_WAIT, Evidence.ARENA: Cause.ARENA_WAIT}),
}

# Futexes whose waits are HELD_WAIT.
HELD_LOCKS = (Evidence.GIL, Evidence.ARENA)
# What a thread is drawn into while it holds such a lock: whoever waits for the lock waits for this.
HOLDER_STALLS = (Evidence.MAJOR_FAULT, Evidence.FILE_FAULT, Evidence.COMPACTION, Evidence.RECLAIM)

_FOLDS: dict[FoldClass, Evidence] = {
    FoldClass.ANON_FAULT: Evidence.ANON_FAULT,
    FoldClass.FILE_FAULT: Evidence.FILE_FAULT,
    FoldClass.READ: Evidence.READ,
    FoldClass.ALLOC: Evidence.ALLOC,
    FoldClass.OPEN_STAT: Evidence.OPEN_STAT,
    FoldClass.FUTEX: Evidence.FUTEX,
    FoldClass.OTHER_SYSCALL: Evidence.SYSCALL,
    FoldClass.YIELD: Evidence.YIELD,
    FoldClass.MALLOC: Evidence.MALLOC,
    FoldClass.IPC: Evidence.MESSAGE,
}

_SYSCALLS: dict[Evidence, tuple[str, ...]] = {
    Evidence.READ: ("read", "pread64", "readv", "preadv", "preadv2", "sendfile", "copy_file_range"),
    Evidence.ALLOC: ("mmap", "munmap", "brk", "mremap", "madvise", "mprotect", "process_madvise"),
    Evidence.OPEN_STAT: (
        "open", "openat", "openat2", "close", "stat", "fstat", "lstat", "newfstatat", "statx", "statfs", "fstatfs",
        "access", "faccessat", "faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "lseek", "fadvise64",
        "readahead", "getcwd", "chdir",
    ),
    Evidence.FUTEX: ("futex", "futex_waitv", "futex_wait", "futex_wake"),
    Evidence.SLEEP: ("nanosleep", "clock_nanosleep", "pause", "rt_sigtimedwait"),
    Evidence.MESSAGE: (
        "poll", "ppoll", "select", "pselect6", "epoll_wait", "epoll_pwait", "epoll_pwait2", "recvfrom", "recvmsg",
        "recvmmsg", "sendto", "sendmsg", "sendmmsg", "accept", "accept4", "connect", "write", "writev", "pwrite64",
        "eventfd2", "msgrcv", "semtimedop", "io_uring_enter",
    ),
    Evidence.SPAWN: ("clone", "clone3", "fork", "vfork", "execve", "execveat"),
    Evidence.CHILD: ("wait4", "waitid"),
    Evidence.YIELD: ("sched_yield",),
}  # fmt: skip
_SYSCALL_EVIDENCE = {name: evidence for evidence, names in _SYSCALLS.items() for name in names}

API_KINDS = (EventKind.CUDA_API, EventKind.GPU_SYNC)

# Driver and runtime API names by their beginning, longest first (CUDA Driver API, CUDA Runtime API).
_CUDA_PREFIXES: tuple[tuple[str, Evidence], ...] = (
    ("cuInit", Evidence.CUDA_INIT),
    ("cuDevicePrimaryCtx", Evidence.CUDA_INIT),
    ("cuCtxCreate", Evidence.CUDA_INIT),
    # The first calls of the runtime make the context (CUDA Runtime API, "Initialization").
    ("cudaGetDeviceCount", Evidence.CUDA_INIT),
    ("cudaMemGetInfo", Evidence.CUDA_INIT),
    ("cudaSetDevice", Evidence.CUDA_INIT),
    ("cudaFree", Evidence.CUDA_MALLOC),
    ("cuLibraryLoad", Evidence.CUDA_MODULE),
    ("cuLibraryGetKernel", Evidence.CUDA_MODULE),
    ("cuModuleLoad", Evidence.CUDA_MODULE),
    ("cuModuleGetFunction", Evidence.CUDA_MODULE),
    ("cuKernelGetFunction", Evidence.CUDA_MODULE),
    ("cudaFuncGetAttributes", Evidence.CUDA_MODULE),
    ("cuLink", Evidence.CUDA_JIT),
    ("nvrtc", Evidence.CUDA_JIT),
    # What CUPTI calls overhead, and JIT, by the names that decode/cuda.py gives them.
    ("lazy function loading", Evidence.CUDA_MODULE),
    ("module loading", Evidence.CUDA_MODULE),
    ("driver compiler", Evidence.CUDA_JIT),
    ("jit ", Evidence.CUDA_JIT),
    ("command buffer full", Evidence.CUDA_SYNC),
    ("cuMemHost", Evidence.CUDA_PIN),
    ("cudaHost", Evidence.CUDA_PIN),
    ("cudaMallocHost", Evidence.CUDA_PIN),
    ("cuMemAlloc", Evidence.CUDA_MALLOC),
    ("cuMemCreate", Evidence.CUDA_MALLOC),
    ("cuMemMap", Evidence.CUDA_MALLOC),
    ("cuMemSetAccess", Evidence.CUDA_MALLOC),
    ("cuMemFree", Evidence.CUDA_MALLOC),
    ("cudaMalloc", Evidence.CUDA_MALLOC),
    ("cuMemcpy", Evidence.CUDA_COPY),
    ("cudaMemcpy", Evidence.CUDA_COPY),
    ("cuGraphLaunch", Evidence.CUDA_LAUNCH),
    ("cudaGraphLaunch", Evidence.CUDA_LAUNCH),
    ("cuGraph", Evidence.CUDA_GRAPH),
    ("cudaGraph", Evidence.CUDA_GRAPH),
    ("cuStreamBeginCapture", Evidence.CUDA_GRAPH),
    ("cuStreamEndCapture", Evidence.CUDA_GRAPH),
    ("cuLaunch", Evidence.CUDA_LAUNCH),
    ("cudaLaunch", Evidence.CUDA_LAUNCH),
    ("cuStreamSynchronize", Evidence.CUDA_SYNC),
    ("cuEventSynchronize", Evidence.CUDA_SYNC),
    ("cuCtxSynchronize", Evidence.CUDA_SYNC),
    ("cudaStreamSynchronize", Evidence.CUDA_SYNC),
    ("cudaEventSynchronize", Evidence.CUDA_SYNC),
    ("cudaDeviceSynchronize", Evidence.CUDA_SYNC),
)


# Ranges that say what running inside them is, whatever the stage, by their labels (instrument/hooks); that holds for
# what others do for them too: the assembler and the C compiler that Triton starts.
RANGE_CAUSES: dict[str, Cause] = {
    "triton compile": Cause.JIT_COMPILE,
    "triton launcher build": Cause.JIT_COMPILE,
    "triton autotune": Cause.AUTOTUNE,
    "inductor autotune": Cause.AUTOTUNE,
    # vLLM's, launched before the token that a request waits for is handed over.
    "next step": Cause.ENGINE_SCHEDULE,
}

# Programs that make machine code, by their process's name: what they run is compilation, whoever started them.
# Extensions of PyTorch, of FlashInfer and of others are built at their first use, with no hook of ours around it.
COMPILERS = frozenset(
    (
        "as", "c++", "cc", "cc1", "cc1plus", "cicc", "clang", "clang++", "collect2", "cudafe++", "fatbinary", "g++",
        "gcc", "ld", "ld.lld", "lld", "ninja", "nvcc", "nvlink", "ptxas",
    )
)  # fmt: skip


def classify(events: Events, strings: Strings) -> NDArray[np.uint8]:
    """Return the Evidence of every event."""
    evidence = np.zeros(len(events), np.uint8)
    kind, flags = events.kind, events.flags
    evidence[kind == EventKind.RANGE] = Evidence.RANGE
    evidence[(kind == EventKind.IMPORT) | (kind == EventKind.DLOPEN)] = Evidence.IMPORT
    evidence[kind == EventKind.COMPACTION] = Evidence.COMPACTION
    evidence[kind == EventKind.RECLAIM] = Evidence.RECLAIM
    evidence[kind == EventKind.MALLOC] = Evidence.MALLOC
    evidence[kind == EventKind.SPIN] = Evidence.SPIN
    fault = kind == EventKind.FAULT
    evidence[fault] = Evidence.ANON_FAULT
    evidence[fault & (flags & FAULT_HUGE != 0)] = Evidence.HUGE_FAULT
    evidence[fault & (flags & FAULT_FILE != 0)] = Evidence.FILE_FAULT
    evidence[fault & (flags & FAULT_MAJOR != 0)] = Evidence.MAJOR_FAULT
    for fold_class, meaning in _FOLDS.items():
        evidence[(kind == EventKind.FOLD) & (flags == fold_class)] = meaning
    _classify_by_name(events, strings, EventKind.SYSCALL, evidence)
    for api in API_KINDS:
        _classify_by_name(events, strings, api, evidence)
    # An allocator call waits for nothing but its own locks; how a driver's call waits is its own affair.
    evidence[_inside(events, evidence == Evidence.FUTEX, kind == EventKind.MALLOC)] = Evidence.ARENA
    evidence[_inside(events, evidence == Evidence.SPIN, np.isin(kind, API_KINDS))] = Evidence.NONE
    # The driver asks the kernel by ioctl: that is what its call does.
    is_cuda = np.isin(kind, API_KINDS) & (evidence >= Evidence.CUDA_INIT)
    rows, calls = _around(events, np.flatnonzero(evidence == Evidence.SYSCALL), np.flatnonzero(is_cuda))
    evidence[rows[calls >= 0]] = evidence[calls[calls >= 0]]
    evidence[(kind == EventKind.SYSCALL) & (flags & SYSCALL_ON_GIL != 0)] = Evidence.GIL
    return evidence


def _inside(events: Events, is_inner: NDArray[np.bool_], is_call: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the inner rows that end inside a call on the same thread; calls do not nest."""
    rows, calls = _around(events, np.flatnonzero(is_inner), np.flatnonzero(is_call))
    return rows[calls >= 0]


def _around(
    events: Events, inner: NDArray[np.intp], calls: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the inner rows and, for each, the call that began last before its end, -1 if that call had ended."""
    rows, found = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
    for track in np.intersect1d(events.track[inner], events.track[calls]).tolist():
        mine, theirs = inner[events.track[inner] == track], calls[events.track[calls] == track]
        at = np.searchsorted(events.start_ns[theirs], events.end_ns[mine]) - 1
        around = theirs[np.maximum(at, 0)]
        is_in = (at >= 0) & (events.end_ns[mine] <= events.end_ns[around])
        rows.append(mine)
        found.append(np.where(is_in, around, -1))
    return np.concatenate(rows), np.concatenate(found)


def _classify_by_name(events: Events, strings: Strings, kind: EventKind, evidence: NDArray[np.uint8]) -> None:
    rows = events.of_kind(kind)
    names, inverse = np.unique(events.name[rows], return_inverse=True)
    by_name = np.array([_evidence_of_name(kind, strings[int(name)]) for name in names], np.uint8)
    if len(rows):
        evidence[rows] = by_name[inverse]


def _evidence_of_name(kind: EventKind, name: str) -> Evidence:
    if kind is EventKind.SYSCALL:
        return _SYSCALL_EVIDENCE.get(name, Evidence.SYSCALL)
    for prefix, evidence in _CUDA_PREFIXES:
        if name.startswith(prefix):
            return evidence
    if kind is EventKind.GPU_SYNC:
        return Evidence.CUDA_SYNC
    # What CUPTI itself cost has names of its own: "cupti buffer flush".
    return Evidence.CUDA_CALL if re.match(r"cu(da)?[A-Z]", name) else Evidence.NONE


def cause_of(state: State, evidence: Evidence, on_cpu: Cause) -> Cause:
    """Return the cause of a stretch; `on_cpu` is what running inside its stage is."""
    if state is State.RUN:
        # Nobody waits for what an engine launches ahead.
        is_ahead = on_cpu is Cause.ENGINE_SCHEDULE and ON_CPU[evidence] is Cause.LAUNCH
        return on_cpu if is_ahead else ON_CPU[evidence] or on_cpu
    if state is State.NO_SCHED:
        return _without_scheduler(evidence, on_cpu)
    default, by_evidence = WAITING[state]
    return by_evidence.get(evidence, default)


def _without_scheduler(evidence: Evidence, on_cpu: Cause) -> Cause:
    # A range alone does not say whether its thread ran or waited. Where the stage itself is the explanation (an import,
    # the forward pass) it is taken; where it would only say "some Python code", nothing is claimed.
    if evidence in (Evidence.NONE, Evidence.RANGE):
        return on_cpu if on_cpu is not Cause.PYTHON else Cause.NO_EVIDENCE
    return ON_CPU[evidence] or on_cpu


# What a host does itself while it waits for the GPU stays what it is: faults under a pageable copy, a module's load.
OF_THE_HOST = (Phase.STORAGE, Phase.ALLOCATOR, Phase.KERNEL_WARMUP)

# Copies by the beginning of the names that decode/cuda.py gives them; all other work of a stream is GPU_KERNEL.
_COPIES: tuple[tuple[str, Cause], ...] = (
    ("memcpy h2d pageable", Cause.H2D_PAGEABLE),
    ("memcpy h2d", Cause.H2D_PINNED),
    ("memcpy d2h", Cause.D2H),
)


def cause_of_work(name: str) -> Cause:
    """Return the cause of a stretch in which the path waited for this work of a GPU stream."""
    return next((cause for prefix, cause in _COPIES if name.startswith(prefix)), Cause.GPU_KERNEL)


def cause_beside_gpu(stage: Stage, cause: Cause, has_sched: bool) -> Cause:
    """Return the cause of a host's own time in a window in which its process used a GPU.

    The forward pass is computed on the GPU: what the host does in it is to launch. Bringing up the device is the
    driver's work, as far as anything says that the thread ran.
    """
    if cause is Cause.CPU_KERNEL:
        return Cause.LAUNCH
    ran = cause is Cause.PYTHON or (cause is Cause.NO_EVIDENCE and not has_sched)
    return Cause.CUDA_INIT if stage is Stage.DEVICE_INIT and ran else cause
