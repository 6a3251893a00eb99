"""vLLM's OpenTelemetry spans as a `Trace`: the spans of its start, and one span a request with latencies in it.

The load window is what the spans of the start cover. Of them the chain that the start waited for stands on one thread,
as tracing UIs show it, with what ran beside it on threads of their own processes. A request's span ends with its last
token, so its window is taken from its attributes: arrival, queue, prefill, first token. The rest of its time is the
front end and the messages between the processes, which vLLM does not tell apart.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from ..capture.layout import MARK_FIRST_TOKEN, MARK_READY, MARK_REQUEST_START
from ..errors import CaptureError
from ..model.events import NO_STAGE, EventKind, Events, make_events, merge_events
from ..model.quality import Issue, Quality
from ..model.sched import empty_sched
from ..model.strings import Strings
from ..model.taxonomy import Stage
from ..model.trace import LedgerLine, Trace
from ..model.tracks import TrackKind, Tracks
from .document import Document
from .otel_names import REQUEST_ID, REQUEST_SPAN, STAGES, TIME_IN_PREFILL, TIME_IN_QUEUE, TIME_TO_FIRST_TOKEN
from .spans import Span, read_spans

# Linux gives no thread such an id (linux/threads.h, PID_MAX_LIMIT).
_FIRST_FREE_ID = 1 << 22
_LONGEST_S = 1e6
_SOURCES = [
    {"name": "otel", "status": "ok", "reason": ""},
    {
        "name": "ebpf",
        "status": "unavailable",
        "reason": "spans have no scheduler, fault or I/O evidence: of a stage only its length is known",
    },
    {
        "name": "ranges",
        "status": "unavailable",
        "reason": "no imports, no compiling inside the warm-up, no steps of the scheduler and the worker; of a request"
        " only its queue and its prefill, which counts as the CPU's work wherever it ran",
    },
]


def read_otel(document: Document) -> Trace:
    """Read the spans of a file.

    Raises:
        CaptureError: none of them is vLLM's.
    """
    quality = Quality()
    spans = read_spans(document, quality)
    load = _load_spans(spans)
    builder = _Builder(quality)
    target = builder.add_load(load)
    n_requests = builder.add_requests([span for span in spans if span.name == REQUEST_SPAN])
    if not load and not n_requests:
        raise CaptureError(
            f"{document.path} has no spans of vLLM", hint="start vLLM with --otlp-traces-endpoint, and send a request"
        )
    n_read, n_damaged = len(load) + n_requests, quality.counts[Issue.DAMAGED_RECORD]
    first_ns = min(span.start_ns for span in spans)
    return Trace(
        manifest={
            "status": "complete",
            "capture": {"id": document.digest, "engine": "vllm", "model": "", "tier": "imported", "host": {}},
            "sources": _SOURCES,
            "state": {},
            "target": target,
        },
        events=merge_events(builder.rows),
        tracks=builder.tracks,
        strings=builder.strings,
        sched=empty_sched(),
        counters=[],
        ledger=[LedgerLine("otel", n_read + n_damaged, n_read + n_damaged, n_read, {})],
        losses=[],
        quality=quality,
        clock_snapshots=[{"monotonic_ns": first_ns, "boottime_ns": first_ns, "realtime_ns": first_ns}],
    )


def _load_spans(spans: list[Span]) -> list[Span]:
    """Return the spans of vLLM's start, and what is inside of them."""
    children: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        if span.parent_id:
            children[span.parent_id].append(span)
    pending = [span for span in spans if span.name in STAGES]
    found: dict[int, Span] = {}
    while pending:
        span = pending.pop()
        if id(span) not in found:
            found[id(span)] = span
            pending += children[span.span_id] if span.span_id else []
    return [span for span in spans if id(span) in found]


def _waited_for(spans: list[Span]) -> list[Span]:
    """Return, of spans that may overlap, the chain that their common end waited for: from the last end backwards."""
    chain: list[Span] = []
    for span in sorted(spans, key=lambda span: (-span.end_ns, span.start_ns)):
        if not chain or span.end_ns <= chain[-1].start_ns:
            chain.append(span)
    return chain


@dataclass(slots=True)
class _Builder:
    """Collects the events of a trace."""

    quality: Quality
    tracks: Tracks = field(default_factory=Tracks)
    strings: Strings = field(default_factory=Strings)
    rows: list[Events] = field(default_factory=list)

    def add_load(self, spans: list[Span]) -> dict[str, int]:
        """Add the spans of the start and its marks; return what the manifest says of the target."""
        if not spans:
            return {}
        first, end_ns = spans[0], max(span.end_ns for span in spans)
        main = self._thread(first)
        known = {span.span_id for span in spans if span.span_id}
        children: dict[str, list[Span]] = defaultdict(list)
        for span in spans:
            children[span.parent_id if span.parent_id in known and span.parent_id != span.span_id else ""].append(span)
        pending = _waited_for(children[""])
        on_path: set[int] = set()
        while pending:
            span = pending.pop()
            if id(span) not in on_path:
                on_path.add(id(span))
                self._range(span, main)
                pending += _waited_for(children[span.span_id] if span.span_id else [])
        for span in spans:
            if id(span) not in on_path:
                self._range(span, self._thread(span, beside=main))
        self._instant(MARK_READY, main, end_ns)
        return {"pid": self.tracks[main].pid, "start_ns": first.start_ns, "end_ns": end_ns}

    def add_requests(self, spans: list[Span]) -> int:
        """Add the requests that had a first token, each on a thread of its own; return how many."""
        n_added = 0
        for span in spans:
            total_ns = _seconds(span, TIME_TO_FIRST_TOKEN)
            if not total_ns:
                self.quality.note(Issue.DAMAGED_RECORD)
                continue
            prefill_ns = min(_seconds(span, TIME_IN_PREFILL), total_ns)
            queue_ns = min(_seconds(span, TIME_IN_QUEUE), total_ns - prefill_ns)
            if prefill_ns + queue_ns < _seconds(span, TIME_IN_PREFILL) + _seconds(span, TIME_IN_QUEUE):
                self.quality.note(Issue.CROSSING_EVENTS)
            self._request(span, n_added, total_ns - prefill_ns - queue_ns, queue_ns, prefill_ns)
            n_added += 1
        return n_added

    def _request(self, span: Span, number: int, other_ns: int, queue_ns: int, prefill_ns: int) -> None:
        track = self.tracks.thread(_FIRST_FREE_ID + number, self._pid(span))
        self.tracks.update(track, name=f"request {number}", process=span.process.name)
        request = self.strings.intern(span.texts.get(REQUEST_ID) or f"request-{number}")
        queued_ns = span.start_ns + other_ns
        first_token_ns = queued_ns + queue_ns + prefill_ns
        self._instant(MARK_REQUEST_START, track, span.start_ns, request)
        self._instant(MARK_FIRST_TOKEN, track, first_token_ns, request)
        lane = self.tracks.other(TrackKind.REQUESTS, self._pid(span), 0)
        self._event(EventKind.ASYNC, "queued", lane, (queued_ns, queued_ns + queue_ns), Stage.QUEUE, request)
        self._event(EventKind.RANGE, "front end and messages", track, (span.start_ns, queued_ns), Stage.SUBMIT, request)
        self._event(EventKind.RANGE, "prefill", track, (queued_ns + queue_ns, first_token_ns), Stage.PREFILL, request)

    def _range(self, span: Span, track: int) -> None:
        self._event(EventKind.RANGE, span.name, track, (span.start_ns, span.end_ns), STAGES.get(span.name))

    def _event(
        self, kind: EventKind, name: str, track: int, times: tuple[int, int], stage: Stage | None, request: int = 0
    ) -> None:
        self.rows.append(
            make_events(
                1,
                kind=int(kind),
                name=self.strings.intern(name),
                track=track,
                start_ns=times[0],
                end_ns=times[1],
                stage=NO_STAGE if stage is None else int(stage),
                request=request,
            )
        )

    def _instant(self, mark: str, track: int, ts_ns: int, request: int = 0) -> None:
        self._event(EventKind.MARK, mark, track, (ts_ns, ts_ns), None, request)

    def _pid(self, span: Span) -> int:
        return span.process.pid or _FIRST_FREE_ID

    def _thread(self, span: Span, beside: int | None = None) -> int:
        """Return the first thread of a span's process; `beside` that one, a second one."""
        pid = self._pid(span)
        row = self.tracks.thread(pid, pid)
        if row == beside:
            row = self.tracks.thread(2 * _FIRST_FREE_ID + pid, pid)
        self.tracks.update(row, process=span.process.name)
        return row


def _seconds(span: Span, attribute: str) -> int:
    """Return an attribute's seconds as nanoseconds; 0 if it is missing or cannot be."""
    value = span.numbers.get(attribute, 0.0)
    return round(value * 1e9) if 0 < value < _LONGEST_S else 0
