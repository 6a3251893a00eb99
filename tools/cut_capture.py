#!/usr/bin/env python3
"""Cut a few requests out of a capture: a small one that is explained as the large one was.

    tools/cut_capture.py CAPTURE OUT [--first 3] [--requests 3] [--margin-ms 20]

Kept is what was recorded from a little before the first of these requests until a little after the last one's first
token, and what names threads, processes, files and strings. There is no load window in OUT.
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
from slmtrace.capture.directory import Capture, RawLog
from slmtrace.capture.layout import HEADER_BYTES, RING, SLOT, Layout, RingType, SlotKind
from slmtrace.model.taxonomy import WindowKind
from slmtrace.model.windows import find_windows

_NAMING = (RingType.FUNCTION, RingType.DESCRIPTOR)
_ALWAYS = (RingType.FORK, RingType.EXEC, RingType.EXIT, RingType.NAME, RingType.PYTHON, *_NAMING)


def main() -> None:
    """Cut, and explain what is left."""
    args = _arguments()
    capture = Capture.open(args.capture)
    requests = [window for window in find_windows(load(capture)) if window.kind is WindowKind.TTFT]
    chosen = requests[args.first : args.first + args.requests]
    margin_ns = int(args.margin_ms * 1e6)
    span = chosen[0].start_ns - margin_ns, chosen[-1].end_ns + margin_ns
    (args.out / "raw").mkdir(parents=True)
    for log in capture.raw_logs()[0]:
        _cut(log, args.out / "raw" / log.path.name, span)
    manifest: dict[str, Any] = json.loads((args.capture / "manifest.json").read_text(encoding="utf-8"))
    manifest["capture"]["cut_to_requests"] = [window.request_id for window in chosen]
    # The load and the end of the target are not in it.
    manifest["target"] = {"pid": manifest["target"]["pid"]}
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
    return kept | ((kind == SlotKind.TEXT) & np.isin(records["id"], used))


def _kept_records(records: NDArray[np.void], span: tuple[int, int]) -> NDArray[np.bool_]:
    """Keep the records of the span, those that name things, and the paths of the files that were touched."""
    kind = records["type"]
    in_span = (records["ts_ns"] >= span[0]) & (records["ts_ns"] < span[1])
    named = np.isin(kind, (RingType.TEXT, RingType.FILE))
    kept = np.isin(kind, _ALWAYS) | (in_span & ~named)
    files = np.isin(records["a"], records["d"][kept]) & (kind == RingType.FILE)
    naming = files | np.isin(kind, _NAMING)
    texts = (kind == RingType.TEXT) & np.isin(records["tid"], records["tid"][naming])
    return kept | files | texts


if __name__ == "__main__":
    main()
