"""Faults of the program itself: its Python, its allocator, its caches, the requests beside it. None needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from .base import Fault, Impossible, Setting

_HERE = Path(__file__).parent
_N_DIRECTORIES, _N_FILES = 600, 100


def _slow_python(kind: str, change: str) -> Callable[[Setting], None]:
    def inject(setting: Setting) -> None:
        setting.environ["PYTHONPATH"] = _before("PYTHONPATH", str(_HERE / "site"), ":")
        setting.environ["SLOW_PYTHON"] = kind
        setting.changes.append(change)

    return inject


def _preload(change: str, **settings: str) -> Callable[[Setting], None]:
    def inject(setting: Setting) -> None:
        library = _scratch(setting) / "delay.so"
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise Impossible("no C compiler")
        flags = ["-O2", "-fPIC", "-shared", "-fno-builtin", "-pthread"]
        subprocess.run([compiler, *flags, "-o", library, _HERE / "delay.c", "-ldl"], check=True)
        setting.environ["LD_PRELOAD"] = _before("LD_PRELOAD", str(library), " ")
        setting.environ.update(settings)
        setting.changes.append(change)

    return inject


def _no_compiled_python(setting: Setting) -> None:
    setting.environ.update(PYTHONPYCACHEPREFIX=str(_scratch(setting)), PYTHONDONTWRITEBYTECODE="1")
    setting.changes.append("hid all .pyc files")


def _long_path(setting: Setting) -> None:
    scratch = _scratch(setting)
    entries = [scratch / f"entry{number}" for number in range(_N_DIRECTORIES)]
    for entry in entries:
        entry.mkdir()
        for number in range(_N_FILES):
            (entry / f"unused{number}.py").touch()
    setting.environ["PYTHONPATH"] = _before("PYTHONPATH", ":".join(map(str, entries)), ":")
    setting.changes.append(f"put {len(entries)} directories of {_N_FILES} files before everything on sys.path")


def _churn_memory(setting: Setting) -> None:
    setting.environ.update(MALLOC_MMAP_THRESHOLD_="16384", MALLOC_TRIM_THRESHOLD_="0", MALLOC_TOP_PAD_="0")
    setting.changes.append("made malloc take all but small memory from the kernel, and give it back when it is freed")


def _wipe_caches(setting: Setting) -> None:
    scratch = _scratch(setting)
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "CUDA_CACHE_PATH")
    setting.environ.update({name: str(scratch / name.lower()) for name in names})
    setting.changes.append("pointed every cache of compiled code to an empty directory")


def _crowd(setting: Setting) -> None:
    setting.arguments += ["--concurrency", "8", "--requests", "16"]
    setting.changes.append("sent 8 requests at a time")


def _without(*names: str) -> Callable[[Setting], None]:
    def cure(setting: Setting) -> None:
        for name in names:
            setting.environ.pop(name, None)
        setting.changes.append(f"unset {', '.join(names)} again")

    return cure


def _eager_modules(setting: Setting) -> None:
    setting.environ["CUDA_MODULE_LOADING"] = "EAGER"
    setting.changes.append("made CUDA load every kernel of every module at once")


def _idle_clocks(setting: Setting) -> None:
    if shutil.which("nvidia-smi") is None:
        raise Impossible("no nvidia-smi")
    setting.undo.run("nvidia-smi", "-rgc")
    subprocess.run(["nvidia-smi", "-lgc", "210,210"], check=True, stdout=subprocess.DEVNULL)
    setting.changes.append("locked the GPU's clock to 210 MHz")


def _scratch(setting: Setting) -> Path:
    path = Path(tempfile.mkdtemp(prefix="slmtrace-fault-"))
    setting.undo.remove_directory(path)
    return path


def _before(name: str, value: str, separator: str) -> str:
    return separator.join(filter(None, (value, os.environ.get(name, ""))))


FAULTS = (
    Fault(
        "tokenizer_burns",
        "100 ms of CPU in every call of the tokenizer",
        _slow_python("tokenizer_burns", "made the tokenizer burn 100 ms a call"),
        ("tokenize",),
        ("slow_tokenizer",),
        ("ttft",),
        cure=_without("SLOW_PYTHON"),
    ),
    Fault(
        "tokenizer_sleeps",
        "100 ms of sleep in every call of the tokenizer",
        _slow_python("tokenizer_sleeps", "made the tokenizer sleep 100 ms a call"),
        ("tokenize", "lock_wait"),
        ("slow_tokenizer",),
        ("ttft",),
        cure=_without("SLOW_PYTHON"),
    ),
    Fault(
        "gil_hog",
        "a Python thread that never rests",
        _slow_python("gil_hog", "started a thread that computes in Python without rest"),
        ("gil_wait",),
        ("gil_contention",),
        ("ttft",),
        cure=_without("SLOW_PYTHON"),
    ),
    Fault(
        "collections",
        "a full garbage collection before every linear layer",
        _slow_python("collections", "made Python collect its garbage at every linear layer"),
        ("cpu_kernel",),
        ("garbage_collection",),
        ("ttft",),
        cure=_without("SLOW_PYTHON"),
        needs_engine="hf",
    ),
    Fault(
        "lock_holder",
        "a lock of the detokenizer that another thread holds most of the time",
        _slow_python("lock_holder", "made a thread hold a lock that the detokenizer needs"),
        ("lock_wait",),
        ("lock_contention", "sleeping"),
        ("ttft",),
        cure=_without("SLOW_PYTHON"),
        needs_engine="hf",
    ),
    Fault(
        "malloc_delay",
        "0.5 ms in every large malloc (record with --malloc slow)",
        _preload("made every malloc of 64 KiB or more burn 0.5 ms", DELAY_MALLOC_US="500"),
        ("malloc_slow",),
        ("slow_malloc",),
        ("load", "ttft"),
        cure=_without("LD_PRELOAD"),
    ),
    Fault(
        "arena_contention",
        "threads that allocate without rest, one arena for all (record with --malloc slow)",
        _preload("started 4 threads that allocate from the only arena", ARENA_THREADS="4", MALLOC_ARENA_MAX="1"),
        ("arena_wait", "run_queue"),
        ("arena_contention", "too_many_threads"),
        ("load", "ttft"),
    ),
    Fault(
        "memory_churn",
        "freed memory goes back to the kernel at once",
        _churn_memory,
        ("anon_fault", "mmap_call"),
        ("memory_churn", "map_churn"),
        ("ttft",),
        cure=_without("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_"),
    ),
    Fault(
        "ipc_delay",
        "2 ms before every message (an engine of several processes)",
        _preload("made every send on a socket sleep 2 ms", DELAY_SEND_US="2000"),
        ("ipc", "lock_wait"),
        ("slow_messages", "sleeping"),
        ("ttft",),
        needs_engine="vllm",
    ),
    Fault(
        "too_many_threads",
        "eight OpenMP threads for each CPU",
        _slow_python("too_many_threads", "set eight OpenMP threads for each CPU"),
        ("run_queue", "lock_wait"),
        ("too_many_threads",),
        ("ttft",),
        cure=_without("SLOW_PYTHON"),
        needs_engine="hf",
    ),
    Fault(
        "no_compiled_python",
        "no .pyc files",
        _no_compiled_python,
        ("import",),
        ("no_compiled_python",),
        cure=_without("PYTHONPYCACHEPREFIX", "PYTHONDONTWRITEBYTECODE"),
    ),
    Fault(
        "long_path",
        "600 directories before site-packages",
        _long_path,
        ("open_stat", "import"),  # Python's own search of each directory, too
        ("many_lookups",),
        cure=_without("PYTHONPATH"),
    ),
    Fault(
        "wiped_caches",
        "no cache of compiled code",
        _wipe_caches,
        ("torch_compile", "jit_compile"),
        ("compiled_anew",),
        ("load", "ttft"),
        needs_engine="vllm",
    ),
    Fault(
        "crowd",
        "8 requests at a time (slmtrace run --engine vllm)",
        _crowd,
        ("engine_queue", "cpu_kernel", "gpu_kernel"),  # a step computes the tokens of all that share it
        ("engine_queue", "batch_interference"),
        ("ttft",),
        needs_engine="vllm",
    ),
    Fault("eager_modules", "CUDA loads all kernels", _eager_modules, ("module_load",), (), is_tested=False),
    Fault(
        "gpu_clocks", "the GPU at 210 MHz", _idle_clocks, ("gpu_kernel",), ("gpu_clocks",), ("ttft",), is_tested=False
    ),
)
