"""The CUDA probe: kernels, copies, synchronisation, module loads and API calls of every process that uses CUDA.

A small library, compiled at its first use, is loaded by the CUDA driver itself (CUDA_INJECTION64_PATH) and records with
CUPTI. It needs the target's own libcupti, which PyTorch for CUDA brings.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..capture import cupti
from ..capture.cuda_calls import RARE_FUNCTIONS
from ..capture.cupti import ActivityKind, BlockKind
from ..capture.directory import Capture
from ..capture.layout import HEADER_BYTES, LOST_OFFSET, SLOT, TEXT_BYTES, ClockId, SlotKind
from ..capture.rawlog import RawLogError, encode_header, read_header
from ..errors import SlmtraceError
from ..instrument import environment
from ..instrument.cuda import find_cupti
from . import shims
from .base import Availability, Probe, ProbeResult, RecordOptions

SHIM_SOURCE = Path(__file__).with_name("cuda_shim.c")
_SELFTEST_TIMEOUT_S = 60
_LOSSES = {
    "cupti_dropped": "CUPTI dropped records",
    "killed_before_flush": "a process was killed before CUPTI had handed over its last records",
}
# The driver API alone: it needs no package, and brings up a context as any program does.
_SELFTEST = """
import ctypes
driver = ctypes.CDLL("libcuda.so.1")
context = ctypes.c_void_p()
for result in (driver.cuInit(0), driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
               driver.cuCtxSetCurrent(context), driver.cuCtxSynchronize()):
    assert result == 0, f"CUDA error {result}"
"""


class CudaProbe(Probe):
    """Has the driver load the recording library into the target, and accounts for the logs that it leaves."""

    name = "cuda"

    def __init__(self) -> None:
        self._raw: Path | None = None
        self._tier = "light"
        self._shim: Path | None = None

    def check(self) -> Availability:
        """Bring up CUDA in a process of its own and see whether it was recorded."""
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            remedy = "install the NVIDIA driver; in a container, start it with --gpus all"
            return Availability("unavailable", "no NVIDIA driver: libcuda.so.1 is missing", remedy)
        try:
            shim = build_shim()
            with tempfile.TemporaryDirectory(prefix="slmtrace-") as raw:
                account = _try(shim, Path(raw))
        except SlmtraceError as error:
            return Availability("unavailable", str(error), error.hint)
        except (OSError, subprocess.SubprocessError) as error:
            return Availability("unavailable", f"CUDA does not start: {error}", "nvidia-smi shows what is wrong")
        if account.reason or not account.n_written:
            # The target's interpreter may have what this one lacks.
            reason = account.reason or "CUPTI recorded nothing"
            return Availability("partial", reason, "pip install nvidia-cuda-cupti, into the target's environment")
        return Availability("ok", detail={"cupti": account.cupti_version, "shim": shim.name})

    def start(self, capture: Capture, options: RecordOptions) -> None:
        """Build the library, and remember where the logs go.

        Raises:
            SlmtraceError: there is no compiler, or it failed.
        """
        self._shim = build_shim()
        self._raw = capture.raw
        self._tier = "calls" if options.tier == "light" and not options.has_gpu_kernels else options.tier

    def environ(self, environ: dict[str, str]) -> dict[str, str]:
        """Return the variables by which the driver loads the library into every process that initialises CUDA."""
        if self._shim is None or self._raw is None:
            return {}
        if environ.get("CUDA_INJECTION64_PATH"):
            # Another tool's: it came first, and its user counts on it.
            return {}
        changed = {
            "CUDA_INJECTION64_PATH": str(self._shim),
            environment.CUDA: self._tier,
            environment.CUDA_RAW: str(self._raw),
        }
        if not any(environ.get(name) for name in environment.NVTX_TOOLS):
            # CUPTI listens to the program's own NVTX ranges; ours are recorded without it.
            changed[environment.NVTX] = "off"
        return changed

    def stop(self) -> ProbeResult:
        """Account for the logs and cut their unused ends."""
        if self._raw is None:
            return ProbeResult("unavailable", "not started")
        accounts = [account for path in sorted(self._raw.glob("cuda.*.bin")) if (account := _account(path)) is not None]
        if not accounts:
            return ProbeResult("partial", "no process of the target initialised CUDA, or another tool is injected")
        reasons = sorted({account.reason for account in accounts if account.reason})
        written = sum(account.n_written for account in accounts)
        counts = {
            "cupti_dropped": sum(account.n_lost for account in accounts),
            "killed_before_flush": sum(account.n_unfinished for account in accounts),
        }
        lost = {cause: n for cause, n in counts.items() if n}
        reasons += [_LOSSES[cause] for cause in lost]
        return ProbeResult(
            "partial" if reasons else "ok",
            "; ".join(reasons),
            seen=written + sum(lost.values()),
            written=written,
            lost=lost,
            overhead={
                "ns": sum(account.cost_ns for account in accounts),
                "method": "time inside the completion of CUPTI's buffers; CUPTI's own cost is in its OVERHEAD records",
            },
            facts={"tier": self._tier, "processes": len(accounts), "cupti_version": accounts[0].cupti_version},
        )


def build_shim() -> Path:
    """Return the compiled recording library.

    Raises:
        SlmtraceError: there is no C compiler, or it failed.
    """
    return shims.build(SHIM_SOURCE, compile_flags(), "the CUDA recorder")


def compile_flags() -> list[str]:
    """Return the compiler's flags: among them all that the library shares with the decoder and the collector."""
    header = encode_header("cuda", cupti.BLOCKS).rstrip(b"\0").decode().strip().removesuffix("}")
    kernel, marker = (dict(_offsets(kind)) for kind in (ActivityKind.CONCURRENT_KERNEL, ActivityKind.MARKER))
    numbers = {
        "HEADER_BYTES": HEADER_BYTES,
        "LOST_OFFSET": LOST_OFFSET,
        "COUNT_OFFSET": cupti.COUNT_OFFSET,
        "COST_OFFSET": cupti.COST_OFFSET,
        "BLOCK_HEADER_BYTES": cupti.BLOCK.size,
        "BLOCK_MAGIC": f"{cupti.BLOCK_MAGIC}u",
        "BLOCK_BUFFER": int(BlockKind.BUFFER),
        "BLOCK_SLOTS": int(BlockKind.SLOTS),
        "SLOT_BYTES": SLOT.record_bytes(),
        "SLOT_TEXT": int(SlotKind.TEXT),
        "SLOT_NOTE": int(SlotKind.NOTE),
        "SLOT_CLOCK": int(SlotKind.CLOCK),
        "SLOT_SYMBOL": int(SlotKind.SYMBOL),
        "CLOCK_CUPTI": int(ClockId.CUPTI),
        "CALLBACK_KEY": f"{cupti.CALLBACK_KEY}u",
        "KERNEL_NAME_OFFSET": kernel["name"],
        "MARKER_NAME_OFFSET": marker["name"],
        "MARKER_DOMAIN_OFFSET": marker["domain"],
    }
    return [
        *("-O2", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"),
        *(f"-D{name}={value}" for name, value in numbers.items()),
        f'-DCUPTI_MAJOR="{cupti.SUPPORTED_MAJOR}"',
        # A JSON string of ASCII text is a C string literal too.
        f"-DHEADER_JSON={json.dumps(header)}",
        f"-DRARE_FUNCTIONS={','.join(map(json.dumps, RARE_FUNCTIONS))}",
    ]


def _offsets(kind: ActivityKind) -> list[tuple[str, int]]:
    return [(name, offset) for name, offset, _ in cupti.RECORDS[kind].fields]


@dataclass(slots=True)
class _Account:
    """What one process's log holds."""

    n_written: int = 0
    n_lost: int = 0
    n_unfinished: int = 0
    cost_ns: int = 0
    cupti_version: int = 0
    used_bytes: int = HEADER_BYTES
    reason: str = ""
    notes: dict[str, str] = field(default_factory=dict)


def _try(shim: Path, raw: Path) -> _Account:
    """Bring up CUDA in a process that records."""
    environ = {
        **os.environ,
        "CUDA_INJECTION64_PATH": str(shim),
        environment.CUDA: "light",
        environment.CUDA_RAW: str(raw),
        environment.CUPTI: find_cupti(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", _SELFTEST],
        env=environ,
        capture_output=True,
        text=True,
        timeout=_SELFTEST_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise OSError((done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1])
    accounts = [_account(path) for path in raw.glob("cuda.*.bin")]
    return next(filter(None, accounts), None) or _Account(reason="the driver did not load the recorder")


def _account(path: Path) -> _Account | None:
    """Count a log's records, read its notes, and cut off what was never used; None if it cannot be read."""
    try:
        header = read_header(path)
        account = _Account(n_lost=int(header["lost"]), cupti_version=int(header.get("cupti_version", 0)))
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
            account.cost_ns = int.from_bytes(mapping[cupti.COST_OFFSET : cupti.COST_OFFSET + 8], "little")
            with memoryview(mapping) as log:
                _count(log, account)
        if not _is_mapped(int(header["pid"]), path):
            os.truncate(path, account.used_bytes)
    except (OSError, ValueError, KeyError, RawLogError):
        return None
    account.reason = ": ".join(filter(None, (account.notes.get("cuda_unavailable"), account.notes.get("cupti_holder"))))
    return account


def _count(log: memoryview, account: _Account) -> None:
    texts: dict[int, bytes] = {}
    for block in cupti.blocks(log):
        if block.kind is BlockKind.SLOTS:
            offsets = cupti.slot_offsets(log, block)
            n_records = len(offsets)
            _read_notes(log, offsets, texts, account)
        else:
            found = cupti.find_records(log, block)
            n_records = sum(map(len, found.offsets.values()))
            account.n_unfinished += found.n_unfinished
        account.n_written += n_records
        if n_records:
            account.used_bytes = -(-block.end // cupti.PAGE_BYTES) * cupti.PAGE_BYTES


def _read_notes(log: memoryview, offsets: range, texts: dict[int, bytes], account: _Account) -> None:
    for offset in offsets:
        record = bytes(log[offset : offset + SLOT.record_bytes()])
        string_id, used, kind = (int.from_bytes(record[a:b], "little") for a, b in ((40, 44), (44, 46), (46, 48)))
        if kind == SlotKind.TEXT:
            texts[string_id] = texts.get(string_id, b"") + record[: min(used, TEXT_BYTES)]
        elif kind == SlotKind.NOTE:
            topic = texts.get(int.from_bytes(record[36:40], "little"), b"").decode("utf-8", "replace")
            account.notes[topic] = texts.get(string_id, b"").decode("utf-8", "replace")


def _is_mapped(pid: int, path: Path) -> bool:
    """Say whether the process that writes a log may still do so: cutting a file under its mapping would kill it."""
    try:
        return str(path) in Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True


def injected_elsewhere(environ: Mapping[str, str]) -> str:
    """Return the library that another tool has the driver load, '' if there is none."""
    return environ.get("CUDA_INJECTION64_PATH", "")
