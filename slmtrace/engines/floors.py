"""Measure what this node can do at best: disk, memory, arithmetic, tokenizer, and the link to a GPU.

`python -m slmtrace.engines.floors MODEL` prints the numbers, each as a line of JSON. It takes about three seconds, in a
process of its own, and never inside a recording; `find_floors` keeps the answer for the node, the model and its device.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..probes.pagecache import evict_from_page_cache
from ..recording.facts import describe_host, package_version
from .models import Model, inspect_model

MAX_AGE_S = 30 * 86400.0
_LIMIT_S = 120.0
_VERSION = 1
# A smaller file says more of the latency than of the bandwidth.
_MIN_DISK_BYTES, _MAX_DISK_BYTES = 64 << 20, 256 << 20
_READ_BYTES, _N_READERS = 4 << 20, 4
_COPY_BYTES = 64 << 20
_MATRIX, _GPU_MATRIX = 1024, 8192
_SPEND_S = 0.3
# A slow device is known by then.
_READING_S = 3.0

Say = Callable[[str], None]


def find_floors(model: Model, say: Say = lambda text: None) -> dict[str, float]:
    """Return the node's floors for a model, measured at the first time and again after a month.

    The keys are disk_bytes_per_second, memory_bytes_per_second, cpu_flops_per_second, tokenizer_tokens_per_second,
    h2d_bytes_per_second and gpu_flops_per_second; what could not be measured is absent. Never raises.
    """
    return read_floors(model) or measure_floors(model, say)


def measure_floors(model: Model, say: Say = lambda text: None, limit_s: float = _LIMIT_S) -> dict[str, float]:
    """Return the node's floors as they are now, as far as the time allows. Never raises.

    If there was time for all, the best of them and of what was kept before is kept: what slows a node down for a while,
    such as a neighbour or a limit, must not count as its best from then on.
    """
    say("measuring what the node can do")
    floors, is_whole = _measure_aside(model, limit_s)
    if is_whole:
        known = read_floors(model)
        with suppress(OSError):
            _remember(model, {name: max(rate, known.get(name, 0.0)) for name, rate in {**known, **floors}.items()})
    return floors


def _measure_aside(model: Model, limit_s: float) -> tuple[dict[str, float], bool]:
    """Return what a process of its own measured, and whether it came to its end."""
    command = [sys.executable, "-m", __name__, str(model.path)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False)
        printed, is_whole = done.stdout, not done.returncode
    except subprocess.TimeoutExpired as late:
        printed, is_whole = late.stdout or b"", False
    except OSError:  # a run without floors is still a run
        return {}, False
    floors: dict[str, float] = {}
    for line in printed.splitlines():
        with suppress(ValueError):  # cut in the middle
            floors |= _numbers(json.loads(line))
    return floors, is_whole


def read_floors(model: Model) -> dict[str, float]:
    """Return what was measured before on this node for this model and its device; empty: nothing, or too long ago."""
    identity = _identity(model)
    for entry in _read_entries():
        if _is_of(entry, identity):
            age_s = time.time() - float(entry.get("measured_s", 0))
            return _numbers(entry.get("floors")) if 0 <= age_s < MAX_AGE_S else {}
    return {}


def measure_disk(files: tuple[Path, ...]) -> float | None:
    """Return the bytes per second that the files' device delivers past the page cache; None: it cannot be told."""
    largest = max(files, key=lambda path: path.stat().st_size, default=None)
    if largest is None:
        return None
    with suppress(OSError), _long_file(largest) as path:
        return _read_directly(path) or _read_evicted(path)
    return None


def measure_memory() -> float:
    """Return the bytes per second that one thread copies from memory to memory."""
    import numpy as np

    source, target = np.ones(_COPY_BYTES, np.uint8), np.zeros(_COPY_BYTES, np.uint8)
    return _COPY_BYTES / _best_s(lambda: np.copyto(target, source))


def measure_cpu() -> float:
    """Return the floating-point operations per second of a large float32 product on all CPUs."""
    try:
        import torch

        a = torch.ones(_MATRIX, _MATRIX)
        return float(2 * _MATRIX**3 / _best_s(lambda: torch.mm(a, a)))
    except ImportError:
        import numpy as np

        b = np.ones((_MATRIX, _MATRIX), np.float32)
        return float(2 * _MATRIX**3 / _best_s(lambda: b @ b))


def measure_tokenizer(model: Model) -> float | None:
    """Return the tokens per second of the model's fast tokenizer on a long text, its first use not counted."""
    path = model.path / "tokenizer.json"
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    from .corpus import corpus_words

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    text = " ".join(corpus_words()[:4000])
    n_tokens = len(tokenizer.encode(text).ids)
    return float(n_tokens / _best_s(lambda: tokenizer.encode(text)))


def measure_gpu() -> dict[str, float]:
    """Return the bandwidth from pinned memory to the first GPU, and its bfloat16 arithmetic; empty without one."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    host = torch.ones(_MAX_DISK_BYTES, dtype=torch.uint8).pin_memory()
    device = torch.empty_like(host, device="cuda")
    a = torch.ones(_GPU_MATRIX, _GPU_MATRIX, dtype=torch.bfloat16, device="cuda")

    def finish(work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            work()
            torch.cuda.synchronize()

        return run

    return {
        "h2d_bytes_per_second": _MAX_DISK_BYTES / _best_s(finish(lambda: device.copy_(host, non_blocking=True))),
        "gpu_flops_per_second": 2 * _GPU_MATRIX**3 / _best_s(finish(lambda: a @ a)),
    }


def main(model_path: str) -> None:
    """Measure everything, and print each number as a JSON object as soon as it is known."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    model = inspect_model(Path(model_path))
    measures: dict[str, Callable[[], float | None]] = {
        "disk_bytes_per_second": lambda: measure_disk(model.weight_files),
        "memory_bytes_per_second": measure_memory,
        "tokenizer_tokens_per_second": lambda: measure_tokenizer(model),
        "cpu_flops_per_second": measure_cpu,
    }
    for name, measure in measures.items():
        with suppress(Exception):  # what cannot be measured here is left out
            if value := measure():
                print(json.dumps({name: value}), flush=True)
    with suppress(Exception):
        print(json.dumps(measure_gpu()), flush=True)


def _best_s(work: Callable[[], object]) -> float:
    """Return the shortest of many runs: what the hardware allows when nothing disturbs it."""
    work()
    best = float("inf")
    end = time.perf_counter() + _SPEND_S
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return max(best, 1e-9)


@contextmanager
def _long_file(path: Path) -> Iterator[Path]:
    """Yield the file itself, or beside it, on the same device, one that is long enough to measure with."""
    if path.stat().st_size >= _MIN_DISK_BYTES:
        yield path
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".slmtrace-") as scratch:
        block = os.urandom(_READ_BYTES)  # a device may store zeros, or repeats, without writing them
        for number in range(_MIN_DISK_BYTES // _READ_BYTES):
            scratch.write(number.to_bytes(8, "little") + block[8:])
        scratch.flush()
        os.fsync(scratch.fileno())
        yield Path(scratch.name)


def _read_directly(path: Path) -> float | None:
    """Read with O_DIRECT; None where the file system knows no such thing."""
    try:
        return _read_rate(path, os.O_DIRECT)
    except OSError:
        return None


def _read_evicted(path: Path) -> float | None:
    """Read through an emptied page cache; None where it cannot be emptied: files in memory have no device."""
    resident_bytes, size_bytes = evict_from_page_cache([path])
    return None if resident_bytes > 0.02 * size_bytes else _read_rate(path, 0)


def _read_rate(path: Path, flags: int) -> float:
    """Read whole blocks from several threads at once, as readahead and the loaders keep several in flight.

    A slow device is not read to the end.
    """
    offsets = range(0, min(path.stat().st_size, _MAX_DISK_BYTES) // _READ_BYTES * _READ_BYTES, _READ_BYTES)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)

    def read(first: int) -> int:
        # O_DIRECT wants aligned memory, which an anonymous mapping is.
        with mmap.mmap(-1, _READ_BYTES) as buffer:
            own = itertools.takewhile(lambda _: time.perf_counter() < start + _READING_S, offsets[first::_N_READERS])
            return sum(os.preadv(descriptor, [buffer], offset) for offset in own)

    start = time.perf_counter()
    try:
        with ThreadPoolExecutor(_N_READERS) as pool:
            n_bytes = sum(pool.map(read, range(_N_READERS)))
        return n_bytes / (time.perf_counter() - start)
    finally:
        os.close(descriptor)


def _identity(model: Model) -> dict[str, Any]:
    """Return what a measurement holds for: the machine, its kernel and torch, the model and the device it lies on."""
    device = model.path.stat().st_dev
    return {
        "version": _VERSION,
        "host": {**describe_host(), "torch": package_version("torch")},
        "model": model.name,
        "device": f"{os.major(device)}:{os.minor(device)}",
    }


def _is_of(entry: dict[str, Any], identity: dict[str, Any]) -> bool:
    return all(entry.get(key) == value for key, value in identity.items())


def _remember(model: Model, floors: dict[str, float]) -> None:
    identity = _identity(model)
    now = time.time()
    measured = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    others = [entry for entry in _read_entries() if not _is_of(entry, identity)]
    _write_entries([*others, {**identity, "measured": measured, "measured_s": now, "floors": floors}])


def _read_entries() -> list[dict[str, Any]]:
    try:
        entries = json.loads(_cache_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _write_entries(entries: list[dict[str, Any]]) -> None:
    path = _cache_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
        json.dump(entries, file, indent=1)
    Path(file.name).replace(path)


def _cache_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "slmtrace" / "floors.json"


def _numbers(value: object) -> dict[str, float]:
    pairs = value.items() if isinstance(value, dict) else ()
    return {str(key): float(one) for key, one in pairs if isinstance(one, int | float) and one > 0}


if __name__ == "__main__":
    main(*sys.argv[1:])
