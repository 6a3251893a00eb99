"""The allow-lists of a bundle: what a name may consist of. Everything else is replaced, whatever it looks like.

Names on these lists are public: of the kernel, CUDA, Python's library, well-known packages and model files, or our own.
"""

from __future__ import annotations

import functools
import re
import sys
from importlib import resources

from ..capture.layout import MALLOC_OPS, FoldClass, LostCause
from ..capture.syscalls import syscall_names
from ..model.taxonomy import Cause, Phase, Stage


def _read_lists() -> dict[str, frozenset[str]]:
    """Read the lists of words: a section each, '#' begins a comment."""
    lists: dict[str, frozenset[str]] = {}
    section = ""
    for line in resources.files(__package__).joinpath("words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            lists[section] = frozenset()
        elif line and not line.startswith("#"):
            lists[section] |= frozenset(line.split())
    return lists


_LISTS = _read_lists()
PUBLIC_PACKAGES, FILE_SUFFIXES, FILE_NAMES = _LISTS["packages"], _LISTS["file suffixes"], _LISTS["file names"]
MODELS, COMMAND_WORDS, PRODUCT_WORDS = _LISTS["models"], _LISTS["command words"], _LISTS["products"]
_WORDS, _KEY_WORDS = _LISTS["words"], _LISTS["keys"]
_IMPLEMENTATION_MODULES = ("__main__", "_distutils_hack", "sitecustomize", "usercustomize", "google.protobuf")

MODEL_SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")
SYSTEM_LIBRARY = re.compile(
    r"lib(c|m|dl|rt|z|util|pthread|resolv|crypt|crypto|ssl|ffi|lzma|bz2|expat|uuid|stdc\+\+|gcc_s|gomp|numa|tinfo|ncurses|"
    r"readline|sqlite3|python3|cuda|cudart|cublas|cublasLt|cudnn(_(adv|cnn|ext|graph|heuristic|ops|"
    r"engines_precompiled|engines_runtime_compiled)(_infer|_train)?)?|cufft|curand|cusolver|cusparse|cupti|nvrtc|"
    r"nvrtc-builtins|nvJitLink|nvidia-(ml|ptxjitcompiler|nvvm|gpucomp|tls|cfg|opencl|"
    r"allocator|fatbinaryloader|compiler|encode)|nccl|jemalloc|tcmalloc|tcmalloc_minimal|mimalloc)"
    r"(3\.\d\d?)?\.so(\.\d{1,4}){0,4}|ld-linux-x86-64\.so\.2|python3(\.\d\d?)?"
)

THREAD_NAME = re.compile(
    r"python3?(\.\d\d?)?|pt_(\w{2}_)?(main|tcpstore|nccl|elastic|autograd)(_thread|_watchdg|_heartbt|_uv|_\d{1,3})?|"
    r"(VLLM::)?(EngineCore?|APIServer|Worker)(_[TPDE]P\d{0,3}){0,3}(_\d{1,3})?|hf_target\.py|"
    r"slmtrace( (run|record|attach|view))?|cuda-EvtHandlr|cuda0{2}\d{6,13}|ThreadPoolExec(u|ut|uto|utor)?|"
    r"asyncio_\d{1,3}|tokio-runtime-w|rayon|uvloop|k(compactd|swapd)\d{1,3}|khugepaged|kworker|kthreadd|migration/\d{1,3}|"
    r"ksoftirqd/\d{1,3}"
)
BLOCK_DEVICE = re.compile(
    r"\d{1,4}:\d{1,7}|nvme\d{1,3}n\d{1,3}(p\d{1,3})?|[sv]d[a-z]{1,2}\d{0,3}|(dm-|md|loop|sr)\d{1,3}"
)
STREAM = re.compile(r"stream \d{1,10}")
REQUEST = re.compile(r"(hf|vllm|http|request)-\d{1,6}")
CUDA_CALL = re.compile(r"(cu|cuda|nvrtc|nvJitLink)[A-Z][A-Za-z]{1,63}\d{0,2}[A-Z]?")
# Three parts at most: four are an address.
VERSION = re.compile(r"\d{1,4}(\.\d{1,4}){0,2}((a|b|rc|\.post|\.dev)\d{1,4})?(\+(cpu|cu\d{2,3}))?")
CPU_LIST = re.compile(r"\d{1,4}([-,]\d{1,4}){0,64}")
NUMBER = re.compile(r"\d{1,6}")
IDENTIFIER = re.compile(r"[0-9a-f]{32}")
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
# A part of a public package's name or path: letters, a few digits. A belt beside the braces of the lists.
_PLAIN_PART = re.compile(r"[A-Za-z]{0,32}\d{0,4}[A-Za-z]{0,12}")
_MAX_SINGLE_LETTERS = 2
_SHORTEST_WORD = 3

_DIMENSIONS = re.compile(r"\d{1,4}(x\d{1,4}){1,3}")

CPU_NUMBER = re.compile(r"[A-Z]{0,2}\d{1,5}[A-Z]{0,2}\+{0,2}|v\d|\d\.\d{1,2}(GHz)?|\d{1,3}-Core")
KERNEL_RELEASE = re.compile(
    r"\d{1,2}\.\d{1,3}(\.\d{1,4})?(-\d{1,4}(\.\d{1,3}){0,2})?(-(generic|amd64|arm64|cloud-amd64|azure|aws|gcp))?"
)
SETTING_NAME = re.compile(
    r"MALLOC_(ARENA_MAX|CONF|TRIM_THRESHOLD_|MMAP_THRESHOLD_|TOP_PAD_|PERTURB_|CHECK_|MMAP_MAX_|ARENA_TEST)|GLIBC_TUNABLES|"
    r"LD_PRELOAD|OMP_NUM_THREADS|OMP_PROC_BIND|OMP_PLACES|OMP_WAIT_POLICY|PYTORCH_(CUDA_)?ALLOC_CONF|"
    r"PYTORCH_NO_CUDA_MEMORY_CACHING|TORCHINDUCTOR_(CACHE_DIR|COMPILE_THREADS|MAX_AUTOTUNE|FX_GRAPH_CACHE)|TORCH_LOGS|"
    r"TORCH_CUDA_ARCH_LIST|TRITON_CACHE_DIR|CUDA_(VISIBLE_DEVICES|LAUNCH_BLOCKING|MODULE_LOADING|CACHE_PATH|CACHE_DISABLE|"
    r"CACHE_MAXSIZE|DEVICE_ORDER|DEVICE_MAX_CONNECTIONS|HOME)|VLLM_(USE_V1|ATTENTION_BACKEND|CACHE_ROOT|LOGGING_LEVEL|"
    r"WORKER_MULTIPROC_METHOD|ENABLE_V1_MULTIPROCESSING|CPU_KVCACHE_SPACE|CPU_OMP_THREADS_BIND|DISABLE_COMPILE_CACHE)|"
    r"glibc\.(malloc|pthread|rtld|mem|cpu|elision)\.[a-z_]{1,32}"
)
OPTION = re.compile(
    r"--?(model|dtype|device|tensor-parallel-size|tp|max-model-len|gpu-memory-utilization|enforce-eager|load-format|port|"
    r"max-num-seqs|max-num-batched-tokens|block-size|seed|quantization|kv-cache-dtype|trust-remote-code|swap-space|m|c|"
    r"enable-prefix-caching|no-enable-prefix-caching|compilation-config|pipeline-parallel-size|O\d)"
)
NUMERIC_OPTIONS = frozenset(
    f"--{name}"
    for name in (
        *("tensor-parallel-size", "tp", "pipeline-parallel-size", "max-model-len", "gpu-memory-utilization", "port"),
        *("max-num-seqs", "max-num-batched-tokens", "block-size", "seed", "swap-space"),
    )
)
SOURCES = frozenset({"ebpf", "ranges", "cuda", "pyspy", "nvml", "proc", "clock", "malloc"})
LOST_CAUSES = frozenset({*(cause.name.lower() for cause in LostCause), "log_full", "dropped", "unknown", "buffer"})
OUR_NAMES = frozenset(
    {
        *(one.label for kind in (Phase, Cause, Stage) for one in kind),
        *(one.name.lower() for one in FoldClass),
        *MALLOC_OPS,
        *(
            "read",
            "write",
            "flush",
            "discard",
            "other",
            "memset",
            "ready",
            "request_start",
            "first_token",
            "request_end",
        ),
    }
)
# Ranges that the instrument writes by itself; the names of wrapped calls come from its hook tables.
_WRITTEN_RANGES: tuple[str, ...] = (
    "init",
    "forward",
    "cuda graph",
    "streamer.put",
    "stop_check",
    "encode outputs",
    "encode request",
)
_WRITTEN_RANGES += (
    "decode outputs",
    "decode request",
    "send",
    "first step",
    "waiting",
    "queued",
    "load",
    "input queue",
    "scheduler queue",
)


@functools.cache
def range_labels() -> frozenset[str]:
    """Return what the instrument itself calls ranges."""
    from ..foreign.otel_names import STAGES as SPANS  # noqa: PLC0415  (vLLM makes NVTX ranges of them, too)
    from ..instrument.hooks import TABLES, load_table  # noqa: PLC0415  (only bundles need them)
    from ..instrument.hooks.vllm.seams import _SCOPES as SCOPES  # noqa: PLC0415

    hooks = [hook for table in TABLES for hook in load_table(table)]
    labels = {hook.label for hook in hooks} | {target.attribute for hook in hooks for target in hook.targets}
    return frozenset({*labels, *SCOPES, *SPANS, *_WRITTEN_RANGES, *OUR_NAMES} - {""})


@functools.cache
def system_calls() -> frozenset[str]:
    """Return the names of all system calls."""
    return frozenset(name for machine in ("x86_64", "aarch64") for name in syscall_names(machine).values())


def is_public_module(name: str) -> bool:
    """Say whether a dotted module name is of Python's library or of a well-known package."""
    top = name.partition(".")[0]
    if name.startswith(_IMPLEMENTATION_MODULES):
        return is_plain(name)
    return (top in sys.stdlib_module_names or top in PUBLIC_PACKAGES) and is_plain(name)


def is_plain(name: str) -> bool:
    """Say whether a name or path consists of the words that public packages name modules and functions by.

    The list of packages alone would not do: people give directories of their own such names (datasets, code), and
    have modules of their own inside of public packages.
    """
    parts = [part for part in re.split(r"[._/+-]", name) if part]
    n_single = sum(len(re.sub(r"\d", "", part)) == 1 for part in parts)
    return n_single <= _MAX_SINGLE_LETTERS and all(_is_plain_part(part) for part in parts)


def _is_plain_part(part: str) -> bool:
    if not _PLAIN_PART.fullmatch(part):
        return False
    whole = re.findall(r"[a-z]+", part.lower())
    if all(len(word) == 1 or word in public_words() for word in whole):
        return True
    # Short words are no evidence: a random token has such pieces between its capitals.
    words = words_of(part)
    return all(len(word) >= _SHORTEST_WORD and word in public_words() for word in words)


def words_of(name: str) -> list[str]:
    """Return the words of a module's, file's or function's name, in lower case: what stands between other characters.

    'nn/modules/linear.py' has nn, modules, linear, py; 'Qwen2Model' has qwen, model.
    """
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


@functools.cache
def public_words() -> frozenset[str]:
    """Return the words of the names of modules and functions in public packages."""
    lines = resources.files(__package__).joinpath("public_words.txt").read_text(encoding="utf-8").splitlines()
    words = {word for line in lines if not line.startswith("#") for word in line.split()}
    return frozenset(words.union(*(words_of(package) for package in PUBLIC_PACKAGES)))


def is_key(key: str) -> bool:
    """Say whether a key of the certificate is one that slmtrace writes; sizes of huge pages are keys, too."""
    if re.fullmatch(r"\d{4,7}kB", key):
        return True
    return all(part in _KEY_WORDS or re.fullmatch(r"\d{0,4}", part) for part in re.split(r"[_ .]", key))


def is_word(word: str) -> bool:
    """Say whether a word is one that kernels, counters and settings are called by, or a short number."""
    if word.lower() in _WORDS:
        return True
    if _DIMENSIONS.fullmatch(word):
        return True
    # Single letters count as words of their own only, so that no random text passes as a row of them.
    parts = re.findall(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}(?![a-z])", word)
    if len(parts) > 1 and "".join(parts) == word and all(part.lower() in _WORDS for part in parts):
        return True
    letters = re.sub(r"\d{1,4}", " ", word).split()
    return len(re.findall(r"\d", word)) <= 4 and all(part.lower() in _WORDS for part in letters)
