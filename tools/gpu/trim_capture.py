"""Make a small capture of a large one: what happened up to the first token of its first requests.

Usage: trim_capture.py CAPTURE OUT [--requests N]
CUPTI's records and those of ranges and counters that began later are left out; OUT's manifest says what is left.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

from slmtrace.analysis import load
from slmtrace.capture import cupti
from slmtrace.capture.cupti import ActivityKind, BlockKind
from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import HEADER_BYTES, MARK_FIRST_TOKEN, SLOT, SlotKind
from slmtrace.model.events import EventKind
from slmtrace.model.windows import marks

_MARGIN_NS = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("capture", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--requests", type=int, default=2)
    args = parser.parse_args()
    capture = Capture.open(args.capture)
    trace = load(capture)
    until_ns = marks(trace, MARK_FIRST_TOKEN)[args.requests - 1].ts_ns + _MARGIN_NS
    events = trace.events
    is_kernel = events.kind == EventKind.GPU_KERNEL
    n_kernels = int((is_kernel & (events.start_ns < until_ns)).sum())

    (args.out / "raw").mkdir(parents=True)
    for log in capture.raw_logs()[0]:
        target = args.out / "raw" / log.path.name
        if log.source == "cuda":
            trim_cuda(log.path, target, n_kernels)
        elif log.header["layout"] == SLOT.name and log.source != "clock":
            trim_slots(log.path, target, until_ns)
        else:
            shutil.copyfile(log.path, target)
    manifest = json.loads((args.capture / "manifest.json").read_text())
    write_manifest(manifest, args.out)
    decoded = {line.source: line.decoded for line in load(Capture.open(args.out)).ledger}
    for line in manifest["ledger"]:
        line["seen"] = line["written"] = decoded[line["source"]]
    manifest["capture"]["trimmed_to_requests"] = args.requests
    write_manifest(manifest, args.out)


def write_manifest(manifest: dict[str, object], out: Path) -> None:
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def trim_slots(source: Path, target: Path, until_ns: int) -> None:
    """Keep strings, and records that began in time."""
    content = source.read_bytes()
    n = (len(content) - HEADER_BYTES) // SLOT.record_bytes()
    records = np.frombuffer(content, np.dtype(SLOT.numpy_fields()), n, HEADER_BYTES)
    keep = (records["kind"] == SlotKind.TEXT) | ((records["start_ns"] < until_ns) & (records["kind"] > 0))
    target.write_bytes(content[:HEADER_BYTES] + records[keep].tobytes())


def trim_cuda(source: Path, target: Path, n_kernels: int) -> None:
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
                kept = list(_kept(content, block, until))
                payload, n_records = b"".join(kept), len(kept)
            if payload:
                file.write(_block(block.kind, payload, n_records))


def _kept(content: memoryview, block: cupti.Block, until: int) -> list[bytes]:
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
