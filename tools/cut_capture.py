#!/usr/bin/env python3
"""Cut a few requests out of a capture: a small one that is explained as the large one was.

    tools/cut_capture.py CAPTURE OUT [--first 3] [--requests 3] [--margin-ms 20]
    tools/cut_capture.py CAPTURE OUT --with-load [--requests 3] [--margin-ms 20]

Kept is what was recorded from a little before the first of these requests (with the load: from the start) until a
little after the last one's first token, and what names threads, processes, files and strings. Of GPU activity, all that
came before the end is kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmtrace.analysis import analyze, load, write_outputs
from slmtrace.capture import cupti
from slmtrace.capture.cupti import ActivityKind, BlockKind
from slmtrace.capture.directory import Capture, RawLog
from slmtrace.capture.layout import HEADER_BYTES, RING, SLOT, Layout, RingType, SlotKind
from slmtrace.model.events import EventKind
from slmtrace.model.taxonomy import WindowKind
from slmtrace.model.windows import find_windows

_NAMING = (RingType.FUNCTION, RingType.DESCRIPTOR)
_ALWAYS = (RingType.FORK, RingType.EXEC, RingType.EXIT, RingType.NAME, RingType.PYTHON, *_NAMING)


def main() -> None:
    """Cut, and explain what is left."""
    args = _arguments()
    capture = Capture.open(args.capture)
    trace = load(capture)
    requests = [window for window in find_windows(trace) if window.kind is WindowKind.TTFT]
    first = 0 if args.with_load else args.first
    chosen = requests[first : first + args.requests]
    margin_ns = int(args.margin_ms * 1e6)
    span = 0 if args.with_load else chosen[0].start_ns - margin_ns, chosen[-1].end_ns + margin_ns
    is_kernel = trace.events.kind == EventKind.GPU_KERNEL
    n_kernels = int((is_kernel & (trace.events.start_ns < span[1])).sum())
    (args.out / "raw").mkdir(parents=True)
    for log in capture.raw_logs()[0]:
        target = args.out / "raw" / log.path.name
        if log.source == "cuda":
            _cut_cuda(log.path, target, n_kernels)
        else:
            _cut(log, target, span)
    manifest: dict[str, Any] = json.loads((args.capture / "manifest.json").read_text(encoding="utf-8"))
    manifest["capture"]["cut_to_requests"] = [window.request_id for window in chosen]
    # The end of the target is not in it, and without the load its start is not either.
    kept = ("pid", "start_ns") if args.with_load else ("pid",)
    manifest["target"] = {key: manifest["target"][key] for key in kept}
    _write(manifest, args.out)
    decoded = {line.source: line.decoded for line in load(Capture.open(args.out)).ledger}
    for line in manifest["ledger"]:
        line["seen"] = line["written"] = decoded[line["source"]]
    for source in manifest["sources"]:
        source["records"] = decoded.get(source["name"], 0)
    _write(manifest, args.out)
    cut = Capture.open(args.out)
    write_outputs(*analyze(cut), cut)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--first", type=int, default=3, help="the first request to keep; the earlier ones are first uses"
    )
    parser.add_argument("--with-load", action="store_true", help="keep the load, and the first requests")
    parser.add_argument("--requests", type=int, default=3)
    parser.add_argument("--margin-ms", type=float, default=20.0)
    return parser.parse_args()


def _write(manifest: dict[str, Any], out: Path) -> None:
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _cut(log: RawLog, target: Path, span: tuple[int, int]) -> None:
    layouts = {SLOT.name: (SLOT, _kept_slots), RING.name: (RING, _kept_records)}
    layout, choose = layouts.get(str(log.header["layout"]), (None, None))
    if layout is None or choose is None or log.source == "clock":
        shutil.copyfile(log.path, target)
        return
    content = log.path.read_bytes()
    records = _records(content, layout)
    target.write_bytes(content[:HEADER_BYTES] + records[choose(records, span)].tobytes())


def _records(content: bytes, layout: Layout) -> NDArray[np.void]:
    n = (len(content) - HEADER_BYTES) // layout.record_bytes()
    return np.frombuffer(content, np.dtype(layout.numpy_fields()), n, HEADER_BYTES)


def _kept_slots(records: NDArray[np.void], span: tuple[int, int]) -> NDArray[np.bool_]:
    """Keep the records that overlap the span or are always true, and the strings that they use."""
    kind = records["kind"]
    overlaps = (records["start_ns"] < span[1]) & (np.maximum(records["end_ns"], records["start_ns"]) >= span[0])
    kept = (kind == SlotKind.NOTE) | ((kind > SlotKind.TEXT) & overlaps)
    used = np.concatenate([records[kept][name].astype(np.int64) for name in ("name", "id", "b")])
    found: NDArray[np.bool_] = kept | ((kind == SlotKind.TEXT) & np.isin(records["id"], used))
    return found


def _kept_records(records: NDArray[np.void], span: tuple[int, int]) -> NDArray[np.bool_]:
    """Keep the records of the span, those that name things, and the paths of the files that were touched."""
    kind = records["type"]
    in_span = (records["ts_ns"] >= span[0]) & (records["ts_ns"] < span[1])
    named = np.isin(kind, (RingType.TEXT, RingType.FILE))
    kept = np.isin(kind, _ALWAYS) | (in_span & ~named)
    files = np.isin(records["a"], records["d"][kept]) & (kind == RingType.FILE)
    naming = files | np.isin(kind, _NAMING)
    texts = (kind == RingType.TEXT) & np.isin(records["tid"], records["tid"][naming])
    found: NDArray[np.bool_] = kept | files | texts
    return found


def _cut_cuda(source: Path, target: Path, n_kernels: int) -> None:
    """Keep all slots, the first kernels by their start, and whatever else began before the last of them ended."""
    content = memoryview(source.read_bytes())
    blocks = list(cupti.blocks(content))
    buffers = [block for block in blocks if block.kind is BlockKind.BUFFER]
    starts = sorted(
        _u64(content, at + _offset(ActivityKind.CONCURRENT_KERNEL, "start"))
        for block in buffers
        for at in cupti.find_records(content, block).offsets[ActivityKind.CONCURRENT_KERNEL]
    )
    until = starts[min(n_kernels, len(starts) - 1)]
    with target.open("wb") as file:
        file.write(content[:HEADER_BYTES])
        for block in blocks:
            payload = bytes(content[block.start : block.end])
            n_records = block.n_records
            if block.kind is BlockKind.BUFFER:
                kept = list(_kept_activity(content, block, until))
                payload, n_records = b"".join(kept), len(kept)
            if payload:
                file.write(_block(block.kind, payload, n_records))


def _kept_activity(content: memoryview, block: cupti.Block, until: int) -> list[bytes]:
    places = sorted(
        (at, ActivityKind(kind)) for kind, found in cupti.find_records(content, block).offsets.items() for at in found
    )
    return [
        bytes(content[at : at + cupti.RECORDS[kind].size_bytes])
        for at, kind in places
        if _u64(content, at + _offset(kind, "start")) < until
    ]


def _block(kind: BlockKind, payload: bytes, n_records: int) -> bytes:
    size_bytes = -(-(cupti.BLOCK.size + len(payload)) // cupti.PAGE_BYTES) * cupti.PAGE_BYTES
    head = cupti.BLOCK.pack(cupti.BLOCK_MAGIC, kind, size_bytes, len(payload), n_records, 0, 0, 0)
    return (head + payload).ljust(size_bytes, b"\0")


def _offset(kind: ActivityKind, field: str) -> int:
    return next(at for name, at, _ in cupti.RECORDS[kind].fields if name == field)


def _u64(content: memoryview, at: int) -> int:
    return int.from_bytes(content[at : at + 8], "little")


if __name__ == "__main__":
    main()
