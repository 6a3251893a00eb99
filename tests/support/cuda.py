"""CUDA without a GPU: the real recorder around a libcupti of our own, in a process of its own, and a fake driver."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

from slmtrace.capture.cupti import RECORDS, ActivityKind
from slmtrace.probes import shims
from slmtrace.probes.cuda import build_shim

_SOURCE = Path(__file__).with_name("fake_cupti.c")
_CODES = {"u1": "B", "<u4": "I", "<u8": "Q"}
_HEAD = """
import ctypes, os, signal, sys, threading, time
from pathlib import Path
sys.path.insert(0, {repository!r})
from tests.support.cuda import record
fake = ctypes.CDLL(os.environ["SLMTRACE_CUPTI"], mode=ctypes.RTLD_GLOBAL)
shim = ctypes.CDLL({shim!r})
strdup = ctypes.CDLL(None).strdup
strdup.restype = ctypes.c_size_t

def text(name):
    return strdup(name.encode())  # outlives the interpreter, as CUPTI's strings do

def emit(kind, **values):
    data = record(kind, **values)
    fake.fake_record(data, ctypes.c_size_t(len(data)))

def flush():
    before = fake.fake_flushes()
    shim.slmtrace_cuda_flush()
    while fake.fake_flushes() == before:
        time.sleep(0.001)

def clock():
    value = ctypes.c_uint64()
    fake.cuptiGetTimestamp(ctypes.byref(value))
    return value.value

assert shim.InitializeInjection() == 1
"""


def record(kind: int, **values: int) -> bytes:
    """Return a CUPTI record with these fields, all others 0."""
    layout = RECORDS[ActivityKind(kind)]
    data = bytearray(layout.size_bytes)
    struct.pack_into("<I", data, 0, kind)
    places = {name: (offset, _CODES[code]) for name, offset, code in layout.fields}
    for name, value in values.items():
        offset, code = places[name]
        struct.pack_into("<" + code, data, offset, value)
    return bytes(data)


def build_fake_cupti() -> Path:
    """Return the compiled fake under the name that the recorder looks for."""
    built = shims.build(_SOURCE, ["-O1", "-fPIC", "-shared", "-Wl,-soname,libcupti.so.13"], "the fake CUPTI")
    return built


def run_target(raw: Path, body: str, tier: str = "light", **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `body` in a process that records CUDA activity; `emit`, `flush`, `text`, `fake` and `shim` are at hand."""
    repository = str(Path(__file__).resolve().parents[2])
    script = _HEAD.format(repository=repository, shim=str(build_shim())) + body
    variables = {
        **os.environ,
        "SLMTRACE_CUDA": tier,
        "SLMTRACE_CUDA_RAW": str(raw),
        "SLMTRACE_CUPTI": str(build_fake_cupti()),
        **environ,
    }
    return subprocess.run(
        [sys.executable, "-c", script], env=variables, capture_output=True, text=True, check=False, timeout=60
    )


def build_fake_driver(directory: Path) -> Path:
    """Return the compiled fake of the CUDA driver."""
    path = directory / "libcuda.so.1"
    source = Path(__file__).with_name("fake_cuda.c")
    subprocess.run(["cc", "-O1", "-fPIC", "-shared", "-o", str(path), str(source)], check=True)
    return path
