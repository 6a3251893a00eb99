"""From a capture to its report and its files: decode, align, merge, attribute, write. The analysis side, in order."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from .align.clocks import ClockMap, fit_clock_map
from .attribute.attribution import attribute
from .attribute.cost import recording_cost
from .capture.directory import Capture, RawLog
from .capture.layout import ClockId
from .decode import decoders
from .decode.base import LATEST_NS, Context, Fragment
from .model.events import merge_events
from .model.quality import Issue, Quality
from .model.report import Report, SourceStatus
from .model.sched import empty_sched
from .model.strings import Strings
from .model.trace import LedgerLine, Trace
from .model.tracks import Tracks
from .model.windows import find_windows
from .output.json_ import render_json
from .output.markdown import render_markdown
from .output.perfetto import write_perfetto
from .verdict.facts import gather
from .verdict.judge import judge

# Sources whose records are not in CLOCK_MONOTONIC, and the clock that they are in.
FOREIGN_CLOCKS = {"cuda": ClockId.CUPTI, "pyspy": ClockId.PYSPY}


def analyze(capture: Capture) -> tuple[Trace, Report]:
    """Read a capture and explain its windows.

    Raises:
        CaptureError: the capture cannot be read.
    """
    trace = load(capture)
    return trace, build_report(trace)


def load(capture: Capture) -> Trace:
    """Decode, align and merge every raw log of a capture."""
    context = Context(Tracks(), Strings(), Quality())
    logs, unreadable = capture.raw_logs()
    context.quality.note(Issue.UNREADABLE_LOG, len(unreadable))
    fragments = [_decode(log, context) for log in logs]
    clocks = _fit_clocks(fragments)
    aligned = [_in_time(_align(fragment, clocks), context.quality) for fragment in fragments]
    manifest = capture.read_manifest()
    ledger = _ledger(manifest, aligned)
    context.quality.note(Issue.UNACCOUNTED, sum(line.unaccounted for line in ledger))
    scheds = [fragment.sched for fragment in aligned if fragment.sched is not None and not fragment.sched.is_empty]
    return Trace(
        manifest=manifest,
        events=merge_events([fragment.events for fragment in aligned]),
        tracks=context.tracks,
        strings=context.strings,
        sched=scheds[0] if scheds else empty_sched(),
        counters=[series for fragment in aligned for series in fragment.counters],
        ledger=ledger,
        losses=sorted((loss for f in aligned for loss in f.losses), key=lambda loss: loss.ts_ns),
        quality=context.quality,
        clock_residual_ns={clock.name.lower(): fitted.residual_ns for clock, fitted in clocks.items()},
        clock_snapshots=_snapshots(fragments),
    )


def build_report(trace: Trace) -> Report:
    """Attribute the windows of a trace, judge them, and put the report together."""
    windows = attribute(trace, find_windows(trace))
    manifest = trace.manifest
    state = manifest.get("state", {})
    ledger: list[dict[str, Any]] = [
        {"source": n.source, "seen": n.seen, "written": n.written, "decoded": n.decoded, "lost": n.lost}
        for n in trace.ledger
    ]
    lost = {line.source: sum(line.lost.values()) for line in trace.ledger}
    decoded = {line.source: line.decoded for line in trace.ledger}
    return Report(
        capture={**manifest.get("capture", {}), "status": _status(manifest)},
        sources=[
            SourceStatus(
                name=str(source.get("name")),
                status=str(source.get("status")),
                reason=str(source.get("reason", "")),
                records=decoded.get(str(source.get("name")), 0),
                lost=lost.get(str(source.get("name")), 0),
            )
            for source in manifest.get("sources", [])
        ],
        state=state,
        windows=judge(windows, gather(trace, windows), state, ledger),
        overhead=recording_cost(trace, windows),
        ledger=list(ledger),
        clock={"residual_ns": trace.clock_residual_ns, "snapshots": trace.clock_snapshots},
        quality=trace.quality.lines(),
    )


def _status(manifest: dict[str, Any]) -> str:
    # A manifest that still says "recording" was left by a recorder that was killed.
    return "complete" if manifest.get("status") == "complete" else "aborted"


def _decode(log: RawLog, context: Context) -> Fragment:
    decode = decoders.DECODERS.get(log.source)
    if decode is None:
        context.quality.note(Issue.UNREADABLE_LOG)
        return Fragment(log.source)
    return decode(log, context)


def _fit_clocks(fragments: list[Fragment]) -> dict[ClockId, ClockMap]:
    reads: dict[int, list[Any]] = defaultdict(list)
    for fragment in fragments:
        if fragment.clock_reads is not None:
            for row in fragment.clock_reads:
                reads[int(row[0])].append(row[1:])
    known = {int(clock) for clock in ClockId}
    return {ClockId(clock): fit_clock_map(np.array(rows, np.int64)) for clock, rows in reads.items() if clock in known}


def _snapshots(fragments: list[Fragment]) -> list[dict[str, int]]:
    """Return what the kernel's clocks read together, as often as they were read."""
    reads: dict[ClockId, list[Any]] = {ClockId.REALTIME: [], ClockId.BOOTTIME: []}
    for fragment in fragments:
        if fragment.source == "clock" and fragment.clock_reads is not None:
            for clock, found in reads.items():
                found.extend(fragment.clock_reads[fragment.clock_reads[:, 0] == clock].tolist())
    snapshots = []
    for real, boot in zip(reads[ClockId.REALTIME], reads[ClockId.BOOTTIME], strict=False):
        monotonic_ns = (boot[1] + boot[3]) // 2
        realtime_ns = real[2] + monotonic_ns - (real[1] + real[3]) // 2
        snapshots.append({"monotonic_ns": monotonic_ns, "boottime_ns": boot[2], "realtime_ns": realtime_ns})
    return snapshots


def _align(fragment: Fragment, clocks: dict[ClockId, ClockMap]) -> Fragment:
    clock = FOREIGN_CLOCKS.get(fragment.source)
    fitted = clocks.get(clock) if clock is not None else None
    if fitted is None:
        return fragment
    events = fragment.events
    return replace(
        fragment,
        events=replace(events, start_ns=fitted.apply(events.start_ns), end_ns=fitted.apply(events.end_ns)),
    )


def _in_time(fragment: Fragment, quality: Quality) -> Fragment:
    """Leave out events at times that CLOCK_MONOTONIC does not show: damage, or a clock map made of it."""
    events = fragment.events
    is_in_time = (events.start_ns >= 0) & (events.end_ns >= events.start_ns) & (events.end_ns < LATEST_NS)
    if is_in_time.all():
        return fragment
    quality.note(Issue.IMPLAUSIBLE_TIME, int((~is_in_time).sum()))
    return replace(fragment, events=events.take(is_in_time))


def _ledger(manifest: dict[str, Any], fragments: list[Fragment]) -> list[LedgerLine]:
    """Compare what each source says that it saw and wrote with what was decoded."""
    decoded: dict[str, int] = defaultdict(int)
    for fragment in fragments:
        decoded[fragment.source] += fragment.decoded
    lines = []
    for entry in manifest.get("ledger", []):
        source = str(entry.get("source"))
        lost = {str(cause): int(n) for cause, n in dict(entry.get("lost", {})).items()}
        lines.append(LedgerLine(source, int(entry["seen"]), int(entry["written"]), decoded.pop(source, 0), lost))
    # A recorder that was killed left no books: what was decoded is all that is known.
    lines += [LedgerLine(source, n, n, n, {}) for source, n in sorted(decoded.items())]
    return lines


def write_outputs(trace: Trace, report: Report, capture: Capture) -> None:
    """Write trace.pftrace, breakdown.json and report.md into the capture.

    Raises:
        CaptureError: they cannot be written.
    """
    write_perfetto(trace, report, capture.trace_path)
    capture.write_text(capture.breakdown_path, render_json(report))
    capture.write_text(capture.report_path, render_markdown(report))
