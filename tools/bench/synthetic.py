"""A capture made of nothing: a tree of four threads that fault, read, wake one another and wait, as long as wanted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import (
    FAULT_FILE,
    HEADER_BYTES,
    MARK_FIRST_TOKEN,
    MARK_READY,
    MARK_REQUEST_END,
    MARK_REQUEST_START,
    NAME_AT_ENROLL,
    RING,
    SLOT,
    SWITCH_NEXT_IN_TREE,
    SWITCH_PREV_IN_TREE,
    FoldClass,
    RingType,
    SlotKind,
)
from slmtrace.capture.rawlog import encode_header

PID = 1000
N_THREADS = 4
TICK_NS = 40_000  # a thread's turn: comes, faults, reads, folds, wakes the next, leaves
RING_PER_TICK, EVENTS_PER_TICK = 7, 8
T0_NS = 10**12
_PAYLOAD_BYTES = RING.record_bytes() - 8
_LABELS = ("import|torch", "weights|load", "prefill|forward", "sample|sample", "tokenize|encode")


def make_capture(path: Path, n_events: int, n_requests: int = 3) -> Capture:
    """Write a capture of about `n_events` records: load in the first half, then the requests."""
    capture = Capture.create(path)
    n_ticks = max(n_events // EVENTS_PER_TICK, 40)
    end_ns = T0_NS + n_ticks * TICK_NS
    ring = np.concatenate([_names(), _ticks(n_ticks)])
    slots = np.concatenate([_texts(), _ranges(n_ticks), _marks(n_ticks, n_requests)])
    _write(capture.raw / "ebpf.bin", encode_header("ebpf", RING, machine="x86_64", kernel="6.1"), ring)
    _write(capture.raw / f"ranges.{PID}.bin", encode_header("ranges", SLOT, pid=PID, program="synthetic"), slots)
    ledger = [
        {"source": name, "seen": n, "written": n, "lost": {}}
        for name, n in (("ebpf", len(ring)), ("ranges", len(slots)))
    ]
    capture.write_manifest(
        {
            "status": "complete",
            "capture": {"engine": "hf", "model": "synthetic", "tier": "light", "command": ["synthetic"]},
            "sources": [
                {"name": line["source"], "status": "ok", "reason": "", "records": line["seen"], "lost": 0}
                for line in json.loads(json.dumps(ledger))
            ],
            "ledger": ledger,
            "target": {"pid": PID, "start_ns": T0_NS, "end_ns": end_ns},
        }
    )
    return capture


def _write(path: Path, header: bytes, records: NDArray[np.void]) -> None:
    with path.open("wb") as file:
        file.write(header[:HEADER_BYTES])
        records.tofile(file)


def _ring(n: int) -> NDArray[np.void]:
    records = np.zeros(n, np.dtype(RING.numpy_fields()))
    records["header"] = _PAYLOAD_BYTES
    return records


def _names() -> NDArray[np.void]:
    """Name the threads, as the collector does when it enrols them."""
    records = _ring(N_THREADS)
    records["type"], records["ts_ns"] = RingType.NAME, T0_NS - 1000
    records["tid"], records["a"], records["b"] = PID + np.arange(N_THREADS), PID, NAME_AT_ENROLL
    records["c"] = int.from_bytes(b"python3\0", "little")
    return records


def _ticks(n_ticks: int) -> NDArray[np.void]:
    """Give the threads their turns, one after the other."""
    records = _ring(n_ticks * RING_PER_TICK).reshape(n_ticks, RING_PER_TICK)
    tick = np.arange(n_ticks, dtype=np.uint64)
    start = np.uint64(T0_NS) + tick * np.uint64(TICK_NS)
    me = np.uint64(PID) + tick % np.uint64(N_THREADS)
    following = np.uint64(PID) + (tick + np.uint64(1)) % np.uint64(N_THREADS)
    columns = (
        # type, offset, tid, a, b, c, d
        (RingType.SWITCH, 0, 0 * me, me, 0, PID << 32, SWITCH_NEXT_IN_TREE),
        (
            RingType.FAULT,
            2_000,
            me,
            0x7F0000000000 + (tick << np.uint64(12)),
            3_000,
            FAULT_FILE | 1 << 32,
            tick % 50 + 1,
        ),
        (RingType.FAULT, 6_000, me, 0x7E0000000000 + (tick << np.uint64(12)), 1_500, 0, 0),
        (RingType.SYSCALL, 9_000, me, 0, 12_000, 3, 65_536),
        (RingType.FOLD, 22_000, me, start + np.uint64(30_000), FoldClass.ANON_FAULT | 5 << 8, 4_000, 0),
        (RingType.WAKING, 33_000, me, following, 0, PID, PID),
        (RingType.SWITCH, 35_000, me, 0, 1, PID, SWITCH_PREV_IN_TREE),
    )
    for number, (kind, offset, tid, a, b, c, d) in enumerate(columns):
        rows = records[:, number]
        rows["type"], rows["ts_ns"], rows["tid"] = kind, start + np.uint64(offset), tid
        rows["a"], rows["b"], rows["c"], rows["d"] = a, b, c, d
    return records.reshape(-1)


def _slots(n: int) -> NDArray[np.void]:
    return np.zeros(n, np.dtype(SLOT.numpy_fields()))


_STRINGS = (*_LABELS, MARK_READY, MARK_REQUEST_START, MARK_FIRST_TOKEN, MARK_REQUEST_END)


def _texts() -> NDArray[np.void]:
    strings = [*_STRINGS, *(f"request-{n}" for n in range(16))]
    records = bytearray()
    for number, text in enumerate(strings, start=1):
        record = _slots(1)
        record["id"], record["used"], record["kind"] = number, len(text), SlotKind.TEXT
        records += text.encode().ljust(40, b"\0") + record.tobytes()[40:]
    return np.frombuffer(bytes(records), _slots(0).dtype)


def _ranges(n_ticks: int) -> NDArray[np.void]:
    """Let each turn be one call of the program."""
    records = _slots(n_ticks)
    tick = np.arange(n_ticks)
    records["start_ns"] = T0_NS + tick * TICK_NS + 1_000
    records["end_ns"] = records["start_ns"] + np.uint64(33_000)
    records["tid"], records["kind"] = PID + tick % N_THREADS, SlotKind.RANGE
    records["name"] = np.where(tick < n_ticks // 2, 1 + tick % 2, 3 + tick % 3)
    return records


def _marks(n_ticks: int, n_requests: int) -> NDArray[np.void]:
    records = _slots(1 + 3 * n_requests)
    records["kind"], records["tid"] = SlotKind.MARK, PID
    half_ns = n_ticks // 2 * TICK_NS
    each_ns = half_ns // n_requests
    mark = {name: 1 + _STRINGS.index(name) for name in _STRINGS[len(_LABELS) :]}
    rows = [(half_ns, mark[MARK_READY], 0)]
    for number in range(n_requests):
        begun_ns, request = half_ns + number * each_ns, len(_STRINGS) + 1 + number
        rows.append((begun_ns + 1_000, mark[MARK_REQUEST_START], request))
        rows.append((begun_ns + each_ns * 9 // 10, mark[MARK_FIRST_TOKEN], request))
        rows.append((begun_ns + each_ns * 95 // 100, mark[MARK_REQUEST_END], request))
    ts_ns, name, request = np.array(rows).T
    records["start_ns"] = records["end_ns"] = T0_NS + ts_ns
    records["name"], records["id"] = name, request
    return records
