"""The vocabulary of attribution: phases, causes and stages, with what each means.

The README's glossary, the JSON Schema and every output take the names from here. Stored integers never change.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Phase(enum.IntEnum):
    """Why the time went."""

    STORAGE = 0
    ALLOCATOR = 1
    DMA = 2
    KERNEL_WARMUP = 3
    SCHEDULER = 4
    COMPUTE = 5
    RUNTIME = 6
    UNATTRIBUTED = 7

    @property
    def label(self) -> str:
        """Return the name that files and reports use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class CauseInfo:
    """A cause's phase and its one-line meaning."""

    phase: Phase
    meaning: str


class Cause(enum.IntEnum):
    """Why the time went, in detail. Every cause belongs to one phase (`CAUSES`)."""

    NO_EVIDENCE = 0
    EXTERNAL = 1
    BLOCK_IO_WAIT = 10
    MAJOR_FAULT = 11
    READAHEAD_WAIT = 12
    FILE_READ_COPY = 13
    FILE_MINOR_FAULT = 14
    OPEN_STAT = 15
    ANON_FAULT = 20
    THP_FAULT = 21
    COMPACTION = 22
    RECLAIM = 23
    MALLOC_SLOW = 24
    ARENA_WAIT = 25
    MMAP_CALL = 26
    MMAP_LOCK_WAIT = 27
    CUDA_MALLOC = 28
    H2D_PAGEABLE = 30
    H2D_PINNED = 31
    D2H = 32
    STAGING_COPY = 33
    PIN_MEMORY = 34
    IOMMU_MAP = 35
    CUDA_INIT = 40
    MODULE_LOAD = 41
    LIBRARY_INIT = 42
    JIT_COMPILE = 43
    TORCH_COMPILE = 44
    AUTOTUNE = 45
    GRAPH_CAPTURE = 46
    FIRST_USE = 47
    ENGINE_QUEUE = 50
    ENGINE_SCHEDULE = 51
    IPC = 52
    RUN_QUEUE = 53
    CPU_THROTTLED = 54
    GIL_WAIT = 55
    LOCK_WAIT = 56
    PROCESS_SPAWN = 57
    GPU_KERNEL = 60
    CPU_KERNEL = 61
    LAUNCH = 62
    IMPORT = 70
    TOKENIZE = 71
    DETOKENIZE = 72
    HTTP = 73
    PYTHON = 74
    OTHER_SYSCALL = 75

    @property
    def label(self) -> str:
        """Return the name that files and reports use."""
        return self.name.lower()

    @property
    def phase(self) -> Phase:
        """Return the phase that the cause belongs to."""
        return CAUSES[self].phase


_P = Phase
CAUSES: dict[Cause, CauseInfo] = {
    Cause.BLOCK_IO_WAIT: CauseInfo(_P.STORAGE, "a read call waited for the block device"),
    Cause.MAJOR_FAULT: CauseInfo(_P.STORAGE, "a page fault on a mapped file waited for the block device"),
    Cause.READAHEAD_WAIT: CauseInfo(_P.STORAGE, "a page fault waited for a page that readahead had already asked for"),
    Cause.FILE_READ_COPY: CauseInfo(_P.STORAGE, "read calls copied file data from the page cache"),
    Cause.FILE_MINOR_FAULT: CauseInfo(_P.STORAGE, "page faults mapped cached file pages"),
    Cause.OPEN_STAT: CauseInfo(_P.STORAGE, "open, stat, readdir and close calls"),
    Cause.ANON_FAULT: CauseInfo(_P.ALLOCATOR, "page faults gave fresh 4 KiB pages"),
    Cause.THP_FAULT: CauseInfo(_P.ALLOCATOR, "page faults gave fresh huge pages"),
    Cause.COMPACTION: CauseInfo(_P.ALLOCATOR, "the kernel moved pages to make contiguous memory"),
    Cause.RECLAIM: CauseInfo(_P.ALLOCATOR, "the kernel freed memory before it could give any"),
    Cause.MALLOC_SLOW: CauseInfo(_P.ALLOCATOR, "malloc, realloc or free itself took long"),
    Cause.ARENA_WAIT: CauseInfo(_P.ALLOCATOR, "waited inside malloc for another thread's arena lock"),
    Cause.MMAP_CALL: CauseInfo(_P.ALLOCATOR, "mmap, munmap, brk, madvise and their like"),
    Cause.MMAP_LOCK_WAIT: CauseInfo(_P.ALLOCATOR, "waited for the process's memory-map lock"),
    Cause.CUDA_MALLOC: CauseInfo(_P.ALLOCATOR, "cuMemAlloc and cudaMalloc calls"),
    Cause.H2D_PAGEABLE: CauseInfo(_P.DMA, "host-to-device copies from pageable memory"),
    Cause.H2D_PINNED: CauseInfo(_P.DMA, "host-to-device copies from pinned memory"),
    Cause.D2H: CauseInfo(_P.DMA, "device-to-host copies"),
    Cause.STAGING_COPY: CauseInfo(
        _P.DMA, "the driver copied pageable memory into its staging buffer, or a copy whose record is missing"
    ),
    Cause.PIN_MEMORY: CauseInfo(_P.DMA, "cuMemHostAlloc and cuMemHostRegister calls"),
    Cause.IOMMU_MAP: CauseInfo(_P.DMA, "the IOMMU was programmed"),
    Cause.CUDA_INIT: CauseInfo(_P.KERNEL_WARMUP, "the CUDA driver and context came up"),
    Cause.MODULE_LOAD: CauseInfo(_P.KERNEL_WARMUP, "GPU code was loaded (cuModuleLoadData, cuLibraryLoadData)"),
    Cause.LIBRARY_INIT: CauseInfo(_P.KERNEL_WARMUP, "cuBLAS, cuDNN or another library initialised itself"),
    Cause.JIT_COMPILE: CauseInfo(_P.KERNEL_WARMUP, "PTX, NVRTC, Triton or a compiler of C made machine code"),
    Cause.TORCH_COMPILE: CauseInfo(_P.KERNEL_WARMUP, "torch.compile: Dynamo, Inductor, C++ compiler"),
    Cause.AUTOTUNE: CauseInfo(_P.KERNEL_WARMUP, "kernels were tried to choose the fastest"),
    Cause.GRAPH_CAPTURE: CauseInfo(_P.KERNEL_WARMUP, "CUDA graphs were captured or instantiated"),
    Cause.FIRST_USE: CauseInfo(_P.KERNEL_WARMUP, "thread pools and primitives were set up at their first use"),
    Cause.ENGINE_QUEUE: CauseInfo(_P.SCHEDULER, "the request waited in the engine's queue"),
    Cause.ENGINE_SCHEDULE: CauseInfo(_P.SCHEDULER, "the engine chose what to run, or ran its next step first"),
    Cause.IPC: CauseInfo(_P.SCHEDULER, "messages between the engine's processes"),
    Cause.RUN_QUEUE: CauseInfo(_P.SCHEDULER, "ready to run, other tasks had the CPU"),
    Cause.CPU_THROTTLED: CauseInfo(_P.SCHEDULER, "the cgroup's CPU quota was used up"),
    Cause.GIL_WAIT: CauseInfo(_P.SCHEDULER, "waited for Python's global interpreter lock"),
    Cause.LOCK_WAIT: CauseInfo(_P.SCHEDULER, "waited for a lock, a thread or a timer"),
    Cause.PROCESS_SPAWN: CauseInfo(_P.SCHEDULER, "a process or thread was started"),
    Cause.GPU_KERNEL: CauseInfo(_P.COMPUTE, "GPU kernels"),
    Cause.CPU_KERNEL: CauseInfo(_P.COMPUTE, "forward pass and sampling on the CPU"),
    Cause.LAUNCH: CauseInfo(_P.COMPUTE, "the GPU waited for the host's launches"),
    Cause.IMPORT: CauseInfo(_P.RUNTIME, "Python imports"),
    Cause.TOKENIZE: CauseInfo(_P.RUNTIME, "tokenising the prompt"),
    Cause.DETOKENIZE: CauseInfo(_P.RUNTIME, "turning the token into text"),
    Cause.HTTP: CauseInfo(_P.RUNTIME, "HTTP parsing and the web framework"),
    Cause.PYTHON: CauseInfo(_P.RUNTIME, "other code of the program on a CPU"),
    Cause.OTHER_SYSCALL: CauseInfo(_P.RUNTIME, "other system calls"),
    Cause.NO_EVIDENCE: CauseInfo(_P.UNATTRIBUTED, "nothing recorded explains it"),
    Cause.EXTERNAL: CauseInfo(_P.UNATTRIBUTED, "waited for something outside the tree"),
}

PHASE_MEANINGS: dict[Phase, str] = {
    Phase.STORAGE: "reading files: the device, readahead, the page cache, open and stat",
    Phase.ALLOCATOR: "getting memory: page faults on fresh memory, huge pages, compaction, reclaim, malloc",
    Phase.DMA: "moving data between host and device, and pinning memory for it",
    Phase.KERNEL_WARMUP: "one-time work before kernels run: CUDA start-up, module loads, compilation, graph capture",
    Phase.SCHEDULER: "waiting for a turn: the engine's queue, the CPU's run queue, locks, messages, new processes",
    Phase.COMPUTE: "the model's own work",
    Phase.RUNTIME: "Python: imports, tokenisation, HTTP, everything else on a CPU",
    Phase.UNATTRIBUTED: "what no evidence explains",
}


class WindowKind(enum.IntEnum):
    """What is explained."""

    LOAD = 0
    TTFT = 1

    @property
    def label(self) -> str:
        """Return the name that files and reports use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class StageInfo:
    """What a stage belongs to, what it means, and what on-CPU time inside it is when nothing finer is known."""

    window: WindowKind
    meaning: str
    on_cpu: Cause = Cause.PYTHON


class Stage(enum.IntEnum):
    """What the engine was doing."""

    PROCESS_START = 0
    IMPORT = 1
    CONFIG = 2
    TOKENIZER_LOAD = 3
    PROCESS_SPAWN = 4
    DEVICE_INIT = 5
    MODEL_INIT = 6
    WEIGHTS = 7
    COMPILE = 8
    PROFILE_RUN = 9
    KV_CACHE = 10
    GRAPH_CAPTURE = 11
    WARMUP = 12
    SERVER_START = 13
    RECEIVE = 20
    TOKENIZE = 21
    SUBMIT = 22
    QUEUE = 23
    SCHEDULE = 24
    DISPATCH = 25
    PREPARE = 26
    PREFILL = 27
    SAMPLE = 28
    RETURN = 29
    DETOKENIZE = 30
    DELIVER = 31

    @property
    def label(self) -> str:
        """Return the name that files and reports use."""
        return self.name.lower()

    @property
    def info(self) -> StageInfo:
        """Return what the stage means."""
        return STAGES[self]


_L, _T = WindowKind.LOAD, WindowKind.TTFT
STAGES: dict[Stage, StageInfo] = {
    Stage.PROCESS_START: StageInfo(
        _L, "from exec to ready, outside every other stage: interpreter, the program's own code"
    ),
    Stage.IMPORT: StageInfo(_L, "Python imports, wherever they happen", Cause.IMPORT),
    Stage.CONFIG: StageInfo(_L, "reading and checking the model's configuration"),
    Stage.TOKENIZER_LOAD: StageInfo(_L, "loading the tokenizer"),
    Stage.PROCESS_SPAWN: StageInfo(_L, "starting worker processes"),
    Stage.DEVICE_INIT: StageInfo(_L, "bringing up the device"),
    Stage.MODEL_INIT: StageInfo(_L, "building the model without its weights"),
    Stage.WEIGHTS: StageInfo(_L, "reading and placing the weights"),
    Stage.COMPILE: StageInfo(_L, "torch.compile", Cause.TORCH_COMPILE),
    Stage.PROFILE_RUN: StageInfo(_L, "the engine's trial run to size its memory", Cause.CPU_KERNEL),
    Stage.KV_CACHE: StageInfo(_L, "allocating the KV cache"),
    Stage.GRAPH_CAPTURE: StageInfo(_L, "capturing CUDA graphs", Cause.GRAPH_CAPTURE),
    Stage.WARMUP: StageInfo(_L, "the engine's own warm-up runs", Cause.CPU_KERNEL),
    Stage.SERVER_START: StageInfo(_L, "starting the HTTP server"),
    Stage.RECEIVE: StageInfo(_T, "from the client's send to the handler", Cause.HTTP),
    Stage.TOKENIZE: StageInfo(_T, "prompt text to tokens", Cause.TOKENIZE),
    Stage.SUBMIT: StageInfo(_T, "handing the request to the engine"),
    Stage.QUEUE: StageInfo(_T, "waiting in the engine's queue", Cause.ENGINE_QUEUE),
    Stage.SCHEDULE: StageInfo(_T, "the engine's scheduler", Cause.ENGINE_SCHEDULE),
    Stage.DISPATCH: StageInfo(_T, "handing the step to the worker", Cause.IPC),
    Stage.PREPARE: StageInfo(_T, "building the step's inputs"),
    Stage.PREFILL: StageInfo(_T, "the forward pass over the prompt", Cause.CPU_KERNEL),
    Stage.SAMPLE: StageInfo(_T, "choosing the first token", Cause.CPU_KERNEL),
    Stage.RETURN: StageInfo(_T, "the token's way back to the front end"),
    Stage.DETOKENIZE: StageInfo(_T, "token to text", Cause.DETOKENIZE),
    Stage.DELIVER: StageInfo(_T, "handing the text to the caller or client"),
}

STAGE_BY_LABEL: dict[str, Stage] = {stage.label: stage for stage in Stage}
