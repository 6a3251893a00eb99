"""Small traces and reports, made by hand: every number in them is chosen, so that tests can say what must come out."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slmtrace.capture.layout import FAULT_FILE, FAULT_MAJOR, FoldClass
from slmtrace.model.events import NO_EVENT, EventKind, Events, make_events, merge_events
from slmtrace.model.quality import Quality
from slmtrace.model.report import CauseShare, Report, SourceStatus, StageShare, WindowReport
from slmtrace.model.sched import Out, Sched, WakeContext, empty_sched
from slmtrace.model.segments import Segments
from slmtrace.model.strings import Strings
from slmtrace.model.taxonomy import Cause, Phase, Stage, WindowKind
from slmtrace.model.trace import CounterSeries, LedgerLine, Loss, Trace
from slmtrace.model.tracks import NO_TRACK, TrackKind, Tracks

US, MS = 1_000, 1_000_000
T0_NS = 1_000_000 * MS


@dataclass
class TraceBuilder:
    """Collect events, scheduler evidence, counters and losses, and build a `Trace` of them."""

    strings: Strings = field(default_factory=Strings)
    tracks: Tracks = field(default_factory=Tracks)
    counters: list[CounterSeries] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    ledger: list[LedgerLine] = field(default_factory=list)
    _rows: list[Events] = field(default_factory=list)
    _runs: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    _wakes: list[tuple[int, int, int, int]] = field(default_factory=list)
    _forks: list[tuple[int, int, int]] = field(default_factory=list)

    def thread(self, tid: int, pid: int, name: str = "", process: str = "") -> int:
        row = self.tracks.thread(tid, pid)
        self.tracks.update(row, name=name, process=process)
        return row

    def event(self, kind: EventKind, track: int, start_ns: int, dur_ns: int, name: str = "", **columns: Any) -> None:
        """Add one event; `file` and `request` are texts."""
        for text in ("file", "request"):
            columns[text] = self.strings.intern(columns.get(text, ""))
        name_id = self.strings.intern(name)
        self._rows.append(
            make_events(1, kind=kind, track=track, start_ns=start_ns, end_ns=start_ns + dur_ns, name=name_id, **columns)
        )

    def events(self, table: Events) -> None:
        """Add many events; the texts must be interned already."""
        self._rows.append(table)

    def run(self, track: int, start_ns: int, end_ns: int, cpu: int = 0, out: Out = Out.SLEEP) -> None:
        self._runs.append((track, start_ns, end_ns, cpu, out))

    def wake(self, track: int, ts_ns: int, by: int = NO_TRACK, context: WakeContext = WakeContext.TASK) -> None:
        self._wakes.append((track, ts_ns, by, context))

    def fork(self, track: int, ts_ns: int, by: int) -> None:
        self._forks.append((track, ts_ns, by))

    def build(self) -> Trace:
        return Trace(
            manifest={"id": "capture-1", "status": "complete"},
            events=merge_events(self._rows),
            tracks=self.tracks,
            strings=self.strings,
            sched=self._sched(),
            counters=self.counters,
            ledger=self.ledger,
            losses=self.losses,
            quality=Quality(),
        )

    def _sched(self) -> Sched:
        if not self._runs:
            return empty_sched()
        runs = np.array(sorted(self._runs), np.int64)
        wakes = np.array(sorted(self._wakes), np.int64).reshape(-1, 4)
        forks = np.array(sorted(self._forks), np.int64).reshape(-1, 3)
        return Sched(
            start_ns=int(runs[:, 1].min()),
            end_ns=int(runs[:, 2].max()),
            run_track=runs[:, 0].astype(np.int32),
            run_start_ns=runs[:, 1].copy(),
            run_end_ns=runs[:, 2].copy(),
            run_cpu=runs[:, 3].astype(np.int32),
            run_out=runs[:, 4].astype(np.uint8),
            wake_track=wakes[:, 0].astype(np.int32),
            wake_ns=wakes[:, 1].copy(),
            wake_by=wakes[:, 2].astype(np.int32),
            wake_context=wakes[:, 3].astype(np.uint8),
            fork_track=forks[:, 0].astype(np.int32),
            fork_ns=forks[:, 1].copy(),
            fork_by=forks[:, 2].astype(np.int32),
        )


Piece = tuple[int, Stage, Cause, int, int]  # length in ns, stage, cause, track, event row


def make_segments(start_ns: int, pieces: list[Piece]) -> Segments:
    """Lay pieces end to end."""
    dur, stage, cause, track, event = (np.array(column) for column in zip(*pieces, strict=True))
    end = start_ns + np.cumsum(dur, dtype=np.int64)
    return Segments(
        start_ns=end - dur,
        end_ns=end,
        track=track.astype(np.int32),
        stage=stage.astype(np.uint8),
        cause=cause.astype(np.uint8),
        event=event.astype(np.int64),
    )


def make_window(
    kind: WindowKind,
    index: int,
    segments: Segments,
    *,
    detail: dict[Cause, dict[str, Any]] | None = None,
    size_bytes: dict[Cause, int] | None = None,
    **fields: Any,
) -> WindowReport:
    """Sum segments up to a window's report: conserved by construction."""
    by_cause: dict[Cause, int] = defaultdict(int)
    count: dict[Cause, int] = defaultdict(int)
    by_stage: dict[Stage, dict[Phase, int]] = defaultdict(lambda: defaultdict(int))
    for dur, stage, cause in zip(segments.dur_ns.tolist(), segments.stage, segments.cause, strict=True):
        by_cause[Cause(cause)] += dur
        count[Cause(cause)] += 1
        by_stage[Stage(stage)][Cause(cause).phase] += dur
    phases = {phase: sum(ns for cause, ns in by_cause.items() if cause.phase == phase) for phase in Phase}
    return WindowReport(
        kind=kind,
        index=index,
        request_id=fields.pop("request_id", "" if kind is WindowKind.LOAD else f"request-{index}"),
        note=fields.pop("note", ""),
        start_ns=int(segments.start_ns[0]),
        end_ns=int(segments.end_ns[-1]),
        phases=phases,
        causes=[
            CauseShare(cause, ns, count[cause], (size_bytes or {}).get(cause, 0), (detail or {}).get(cause, {}))
            for cause, ns in sorted(by_cause.items(), key=lambda item: (-item[1], item[0]))
        ],
        stages=[
            StageShare(stage, sum(shares.values()), {phase: shares[phase] for phase in Phase})
            for stage, shares in sorted(by_stage.items())
        ],
        overlapped=fields.pop("overlapped", dict.fromkeys(Phase, 0)),
        segments=segments,
        **fields,
    )


def make_report(windows: list[WindowReport], **fields: Any) -> Report:
    """Make a report of these windows on an ordinary node."""
    defaults: dict[str, Any] = {
        "capture": {
            "id": "capture-1",
            "created": "2026-01-02T03:04:05Z",
            "engine": "hf",
            "engine_version": "4.57.1",
            "model": "tiny",
            "tier": "light",
            "command": "slmtrace run",
            "status": "complete",
            "host": {"kernel": "6.12.0", "cpus": 2, "memory_bytes": 8 << 30, "python": "3.11.2"},
        },
        "sources": [
            SourceStatus("ranges", "ok", "", 1_204, 0),
            SourceStatus("ebpf", "ok", "", 35_811, 0),
            SourceStatus("pyspy", "ok", "", 412, 0),
            SourceStatus("cuda", "unavailable", "no NVIDIA driver", 0, 0),
        ],
        "state": {
            "page_cache": {
                "before": {"resident_fraction": 0.0, "files": []},
                "after": {"resident_fraction": 1.0, "files": []},
            },
            "thp": {"enabled": "madvise", "defrag": "madvise"},
        },
        "overhead": {
            "windows": [
                {"name": "load", "index": 0, "ns": 21 * MS, "share": 0.006},
                {"name": "ttft", "index": 0, "ns": 180 * US, "share": 0.004},
            ],
            "method": "BPF run time + ranges x cost of one",
        },
        "ledger": [{"source": "ebpf", "seen": 35_811, "written": 35_811, "decoded": 35_811, "lost": {}}],
        "clock": {
            "residual_ns": {},
            "snapshots": [
                {
                    "boottime_ns": T0_NS + 77 * MS,
                    "monotonic_ns": T0_NS,
                    "realtime_ns": 1_767_323_045_000_000_000,
                }
            ],
        },
        "quality": [],
    }
    return Report(windows=windows, **(defaults | fields))


def sample_run() -> tuple[Trace, Report]:
    """Make a run that loads from a cold page cache in 2.4 s and answers three requests, each feature once or more."""
    builder = TraceBuilder()
    main = builder.thread(1000, 1000, "python3", "slmtrace run")
    worker = builder.thread(1003, 1000, "loader")
    engine = builder.thread(1100, 1100, "EngineCore", "VLLM::EngineCore")
    _add_load(builder, main, worker)
    for index in range(3):
        _add_request(builder, main, engine, index)
    _add_system(builder)
    trace = builder.build()
    return trace, make_report([_load_window(trace, main, worker), *(_ttft_window(trace, main, i) for i in range(3))])


WEIGHTS = "/models/tiny/model.safetensors"
TORCH = "/usr/lib/python3/site-packages/torch/lib/libtorch_cpu.so"
_LOAD_MS = 2_400
_WEIGHTS_BYTES = 512 << 20


def _request_start(index: int) -> int:
    return T0_NS + (_LOAD_MS + 100 + 200 * index) * MS


def _add_load(builder: TraceBuilder, main: int, worker: int) -> None:
    at = T0_NS
    kind = EventKind
    builder.event(kind.RANGE, main, at, 2_400 * MS, "load", stage=Stage.PROCESS_START)
    builder.event(kind.IMPORT, main, at + 100 * MS, 800 * MS, "transformers", stage=Stage.IMPORT)
    builder.event(kind.IMPORT, main, at + 150 * MS, 500 * MS, "torch", stage=Stage.IMPORT)
    builder.event(kind.DLOPEN, main, at + 200 * MS, 200 * MS, "torch._C", stage=Stage.IMPORT)
    builder.event(kind.RANGE, main, at + 1_000 * MS, 1_300 * MS, "from_pretrained", stage=Stage.WEIGHTS)
    for step in range(12):
        start = at + (1_010 + 100 * step) * MS
        flags = FAULT_MAJOR | FAULT_FILE
        builder.event(kind.FAULT, main, start, 60 * MS, file=WEIGHTS, flags=flags, size_bytes=4096, detail=0x7F00)
        builder.event(kind.FAULT, main, start + 61 * MS, 2 * US, flags=0)
        builder.event(kind.BLOCK_IO, _disk(builder), start + MS, 58 * MS, "read", size_bytes=512 << 10, detail=step)
        builder.event(kind.BLOCK_IO, _disk(builder), start + 2 * MS, 20 * MS, "read", size_bytes=128 << 10)
        builder.run(main, start - 40 * MS, start + 10 * US, out=Out.IOWAIT)
        builder.wake(main, start + 59 * MS, context=WakeContext.BLOCK)
    builder.run(main, at, at + 900 * MS, out=Out.PREEMPTED)
    builder.event(kind.SYSCALL, main, at + 950 * MS, 30 * MS, "openat", file=WEIGHTS)
    builder.event(kind.RECLAIM, main, at + 1_072 * MS, 3 * MS, detail=32)
    builder.event(kind.MALLOC, main, at + 1_080 * MS, 40 * US, "malloc", size_bytes=1 << 20)
    for step in range(5):
        builder.event(
            kind.FOLD,
            main,
            at + (300 + step) * MS,
            MS - 1,
            flags=FoldClass.FILE_FAULT,
            count=100 + step,
            work_ns=90 * US,
            file=TORCH,
        )
        builder.event(kind.FOLD, main, at + (300 + step) * MS, MS - 1, flags=FoldClass.OPEN_STAT, count=7, work_ns=US)
    builder.event(kind.RANGE, worker, at + 1_400 * MS, 200 * MS, "prefetch", stage=Stage.WEIGHTS)
    builder.fork(worker, at + 1_390 * MS, main)
    builder.run(worker, at + 1_400 * MS, at + 1_600 * MS, cpu=1)
    for step in range(20):
        builder.event(kind.SAMPLE, main, at + (20 + 50 * step) * MS, 0, "<module> (run.py:1);load (run.py:20);import")


def _add_request(builder: TraceBuilder, main: int, engine: int, index: int) -> None:
    start, kind, request = _request_start(index), EventKind, f"request-{index}"
    builder.event(kind.MARK, main, start, 0, "request_start", request=request)
    builder.event(kind.RANGE, main, start, 2 * MS, "tokenize", stage=Stage.TOKENIZE, request=request)
    requests = builder.tracks.other(TrackKind.REQUESTS, 1100, 0)
    builder.event(kind.ASYNC, requests, start + 2 * MS, 3 * MS, "queued", stage=Stage.QUEUE, request=request)
    builder.event(kind.RANGE, engine, start + 5 * MS, 30 * MS, "execute_model", stage=Stage.PREFILL, request=request)
    stream = builder.tracks.other(TrackKind.GPU_STREAM, 0, 7, "stream 7")
    for launch in range(4):
        at, correlation = start + (6 + launch) * MS, 10 * index + launch + 1
        builder.event(kind.CUDA_API, engine, at, 20 * US, "cuLaunchKernel", detail=correlation)
        builder.event(kind.GPU_KERNEL, stream, at + 60 * US, 800 * US, "gemm_bf16_128x128", detail=correlation)
    builder.event(kind.MARK, main, start + 40 * MS, 0, "first_token", request=request)
    builder.run(main, start, start + 3 * MS)
    builder.wake(engine, start + 4 * MS, by=main)
    builder.run(engine, start + 5 * MS, start + 35 * MS, cpu=1)
    builder.wake(main, start + 36 * MS, by=engine)
    builder.run(main, start + 37 * MS, start + 42 * MS)


def _add_system(builder: TraceBuilder) -> None:
    compactor = builder.tracks.other(TrackKind.SYSTEM, 0, 60, "kcompactd0")
    builder.event(EventKind.COMPACTION, compactor, T0_NS + 700 * MS, 9 * MS)
    ts = T0_NS + np.arange(20, dtype=np.int64) * 100 * MS
    builder.counters += [
        CounterSeries("memory available", "bytes", ts, (4 << 30) - np.arange(20, dtype=np.int64) * (16 << 20)),
        CounterSeries("GPU 0 SM busy", "%", ts, np.arange(20, dtype=np.int64) * 5),
    ]
    builder.losses.append(Loss(T0_NS + 1_500 * MS, "ebpf", "ring_full", 17))


def _disk(builder: TraceBuilder) -> int:
    return builder.tracks.other(TrackKind.BLOCK_DEVICE, 0, 0x10300000, "nvme0n1")


def _row(trace: Trace, kind: EventKind, nth: int = 0) -> int:
    return int(np.flatnonzero(trace.events.kind == kind)[nth])


def _load_window(trace: Trace, main: int, worker: int) -> WindowReport:
    stage, cause = Stage, Cause
    pieces: list[Piece] = [
        (100 * MS, stage.PROCESS_START, cause.PYTHON, main, _row(trace, EventKind.RANGE)),
        (700 * MS, stage.IMPORT, cause.IMPORT, main, _row(trace, EventKind.IMPORT)),
        (100 * MS, stage.IMPORT, cause.FILE_MINOR_FAULT, main, _row(trace, EventKind.FOLD)),
        (50 * MS, stage.CONFIG, cause.RUN_QUEUE, main, NO_EVENT),
        (60 * MS, stage.CONFIG, cause.OPEN_STAT, main, _row(trace, EventKind.SYSCALL)),
    ]
    for step in range(12):
        pieces += [
            (60 * MS, stage.WEIGHTS, cause.MAJOR_FAULT, main, _row(trace, EventKind.FAULT, 2 * step)),
            (40 * MS, stage.WEIGHTS, cause.ANON_FAULT, main, _row(trace, EventKind.FAULT, 2 * step + 1)),
        ]
    pieces += [
        (120 * MS, stage.MODEL_INIT, cause.PYTHON, worker, NO_EVENT),
        (70 * MS, stage.MODEL_INIT, cause.NO_EVIDENCE, main, NO_EVENT),
    ]
    detail = {
        cause.MAJOR_FAULT: {"files": [{"name": WEIGHTS, "ns": 720 * MS, "count": 12, "bytes": _WEIGHTS_BYTES}]},
        cause.FILE_MINOR_FAULT: {"files": [{"name": TORCH, "ns": 100 * MS, "count": 510, "bytes": 2 << 20}]},
        cause.IMPORT: {
            "packages": [
                {"name": "torch", "ns": 500 * MS, "count": 1, "bytes": 0},
                {"name": "transformers", "ns": 200 * MS, "count": 1, "bytes": 0},
            ]
        },
        cause.PYTHON: {"functions": [{"name": "_init_weights (modeling_utils.py:2900)", "ns": 120 * MS, "count": 9}]},
    }
    return make_window(
        WindowKind.LOAD,
        0,
        make_segments(T0_NS, pieces),
        detail=detail,
        size_bytes={cause.MAJOR_FAULT: _WEIGHTS_BYTES, cause.FILE_MINOR_FAULT: 2 << 20},
    )


def _ttft_window(trace: Trace, main: int, index: int) -> WindowReport:
    engine, stage, cause = trace.tracks.find_thread(1100), Stage, Cause
    stream = trace.tracks.rows(TrackKind.GPU_STREAM)[0]
    kernel = _row(trace, EventKind.GPU_KERNEL, 4 * index)
    warm_up = 9 * MS if index == 0 else 0
    pieces: list[Piece] = [
        (2 * MS, stage.TOKENIZE, cause.TOKENIZE, main, NO_EVENT),
        (2 * MS, stage.QUEUE, cause.ENGINE_QUEUE, main, NO_EVENT),
        (1 * MS, stage.DISPATCH, cause.RUN_QUEUE, engine, NO_EVENT),
        (10 * MS + index * 100 * US, stage.PREFILL, cause.CPU_KERNEL, engine, NO_EVENT),
        (12 * MS, stage.PREFILL, cause.GPU_KERNEL, stream, kernel),
        (1 * MS, stage.SAMPLE, cause.CPU_KERNEL, engine, NO_EVENT),
        (500 * US + 1, stage.RETURN, cause.IPC, main, NO_EVENT),
        (500 * US - 1, stage.DETOKENIZE, cause.DETOKENIZE, main, NO_EVENT),
    ]
    if warm_up:
        pieces.insert(4, (warm_up, stage.PREFILL, cause.FIRST_USE, engine, NO_EVENT))
    return make_window(WindowKind.TTFT, index, make_segments(_request_start(index), pieces))
