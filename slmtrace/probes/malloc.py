"""The malloc probe: slow allocator calls of the whole process tree, by a preloaded shim.

`--malloc slow` preloads malloc_shim.c, compiled at its first use; `--malloc full` is recorded by the eBPF collector.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..capture.directory import Capture
from ..capture.layout import HEADER_BYTES, LOST_OFFSET, SLOT, SlotKind
from ..capture.rawlog import RawLogError, encode_header, read_header
from ..errors import SlmtraceError
from . import shims
from .base import Availability, Probe, ProbeResult, RecordOptions

SHIM_SOURCE = Path(__file__).with_name("malloc_shim.c")
ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")
LIBC = "libc"  # the C library's own
_USED_OFFSET = LOST_OFFSET + 8  # the shim's live count of rows given out
_NOT_SEEN = "C++ operator new of an allocator that defines its own (jemalloc, tcmalloc) does not pass through malloc"


class MallocProbe(Probe):
    """Preloads the shim into the target when the user asked for slow allocator calls."""

    name = "malloc"

    def __init__(self) -> None:
        self._mode = "default"
        self._threshold_ns = RecordOptions().threshold_ns
        self._raw: Path | None = None
        self._shim: Path | None = None
        self._allocator = ""

    def check(self) -> Availability:
        """Compile the shim if need be, and load it into a real process."""
        # Without the shim there is still --malloc default, so nothing here makes the probe unavailable.
        try:
            shim = build_shim()
        except SlmtraceError as error:
            return Availability("partial", f"no --malloc slow: {error}", error.hint)
        if not loads(shim):
            return Availability("partial", "no --malloc slow: the shim does not load here", f"rm {shim}, and try again")
        return Availability("ok", detail={"shim": shim.name, "allocator": find_allocator(os.environ)})

    def start(self, capture: Capture, options: RecordOptions) -> None:
        """Build the shim, for `--malloc slow` only.

        Raises:
            SlmtraceError: there is no compiler, or it failed.
        """
        self._mode = options.malloc
        self._threshold_ns = options.threshold_ns
        self._raw = capture.raw
        if self._mode == "slow":
            self._shim = build_shim()

    def environ(self, environ: dict[str, str]) -> dict[str, str]:
        """Put the shim before whatever the user preloads, so that it sees the calls to the user's allocator."""
        self._allocator = find_allocator(environ)
        if self._shim is None or self._raw is None:
            return {}
        return {
            "LD_PRELOAD": " ".join(filter(None, (str(self._shim), environ.get("LD_PRELOAD", "")))),
            "SLMTRACE_MALLOC_DIR": str(self._raw),
            "SLMTRACE_MALLOC_THRESHOLD_NS": str(self._threshold_ns),
        }

    def stop(self) -> ProbeResult:
        """Cut the unused rows off the logs, and account for them."""
        facts = {"mode": self._mode, "allocator": self._allocator}
        if self._mode != "slow" or self._raw is None:
            return ProbeResult("ok", _reason_without_shim(self._mode), facts=facts)
        counts = [_finish_log(path) for path in sorted(self._raw.glob("malloc.*.bin"))]
        written = sum(n_written for n_written, _ in counts)
        lost = sum(n_lost for _, n_lost in counts)
        return ProbeResult(
            "ok" if counts else "partial",
            "" if counts else "no slow call seen: there was none, or the command set its own LD_PRELOAD",
            seen=written + lost,
            written=written,
            lost={"log_full": lost} if lost else {},
            overhead={"method": "two counter reads a call; tools/bench_malloc.py measures it"},
            facts={**facts, "threshold_ns": self._threshold_ns, "n_logs": len(counts), "not_seen": _NOT_SEEN},
        )


def find_allocator(environ: Mapping[str, str], mapped_files: Iterable[str] = ()) -> str:
    """Name the allocator that a process uses, by what it preloads and what it has mapped; LIBC when by neither."""
    preloaded = environ.get("LD_PRELOAD", "").replace(":", " ").split()
    for path in (*preloaded, *mapped_files):
        for allocator in ALLOCATORS:
            if Path(path).name.startswith(f"lib{allocator}"):
                return allocator
    return LIBC


def build_shim() -> Path:
    """Return the compiled shim, compiling it when the cache has none of this source and these layouts.

    Raises:
        SlmtraceError: there is no C compiler, or it failed.
    """
    return shims.build(SHIM_SOURCE, _compile_flags(), "the malloc shim")


def loads(shim: Path) -> bool:
    """Say whether a process starts with the shim in front of its allocator."""
    environ = {**os.environ, "LD_PRELOAD": str(shim)}
    done = subprocess.run(["/bin/sh", "-c", ":"], env=environ, capture_output=True, check=False, timeout=10)
    return done.returncode == 0 and not done.stderr


def _compile_flags() -> list[str]:
    header = encode_header("malloc", SLOT).rstrip(b"\0").decode().strip().removesuffix("}")
    return [
        *("-O2", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-ftls-model=initial-exec"),
        # The compiler must not turn malloc + memset inside calloc into a call of calloc itself.
        "-fno-builtin",
        f"-DSLOT_BYTES={SLOT.record_bytes()}",
        f"-DSLOT_KIND_MALLOC={int(SlotKind.MALLOC)}",
        f"-DHEADER_BYTES={HEADER_BYTES}",
        f"-DLOST_OFFSET={LOST_OFFSET}",
        # A JSON string of ASCII text is a C string literal too.
        f"-DHEADER_JSON={json.dumps(header)}",
    ]


def _reason_without_shim(mode: str) -> str:
    if mode == "full":
        return "recorded by the eBPF collector"
    return "off" if mode == "off" else "allocator system calls and faults only"


def _finish_log(path: Path) -> tuple[int, int]:
    """Cut the rows never given out, and return how many records were written and lost."""
    try:
        header = read_header(path)
        log = path.read_bytes()
        n_used = int.from_bytes(log[_USED_OFFSET : _USED_OFFSET + 8], "little")
        records = log[HEADER_BYTES : HEADER_BYTES + n_used * SLOT.record_bytes()]
        os.truncate(path, HEADER_BYTES + len(records))
    except (RawLogError, OSError):
        return 0, 0
    # The low byte of a record's last field is its kind: a thread killed between taking a row and filling it left 0.
    kinds = records[SLOT.record_bytes() - 2 :: SLOT.record_bytes()]
    return len(kinds) - kinds.count(SlotKind.EMPTY), int(header["lost"])
