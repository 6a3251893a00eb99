"""Find the windows of a trace: `load`, and one `ttft` a request, from the marks that the instrument wrote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..capture.layout import MARK_FIRST_TOKEN, MARK_READY, MARK_REQUEST_START
from .events import MARK_KILLED, EventKind
from .quality import Issue
from .taxonomy import WindowKind
from .trace import Trace, Window

NEVER_READY = "the target never got ready"
_SIGNAL_SPREAD_NS = 50_000_000
SOCKET_NOTE = "from its first bytes read to its first body bytes written; stages are unknown"


@dataclass(frozen=True, slots=True)
class Mark:
    """An instant that the instrument wrote on a thread."""

    ts_ns: int
    track: int
    request: str
    name: str


def find_windows(trace: Trace) -> list[Window]:
    """Return the load window, if the recording saw the target start, and the ttft windows in order of their start."""
    requests = _request_windows(trace)
    load = _load_window(trace, first_request_ns=requests[0].start_ns if requests else None)
    return ([load] if load else []) + requests


def broken_off_ns(trace: Trace) -> int | None:
    """Return when a target that failed was interrupted, or the first of its processes was killed; None: neither was."""
    target = trace.manifest.get("target") or {}
    killed = _marks(trace, lambda name: name.startswith(MARK_KILLED)) if target.get("exit_code") != 0 else []
    interrupted_ns = target.get("interrupted_ns")
    # The target may have the signal a little before us.
    known = [interrupted_ns - _SIGNAL_SPREAD_NS] if isinstance(interrupted_ns, int) else []
    return min([*known, *(mark.ts_ns for mark in killed[:1])], default=None)


def marks(trace: Trace, name: str) -> list[Mark]:
    """Return the marks of one name in order of time."""
    return _marks(trace, name.__eq__)


def _marks(trace: Trace, is_wanted: Callable[[str], bool]) -> list[Mark]:
    events = trace.events
    rows = events.of_kind(EventKind.MARK)
    found = [
        Mark(int(events.start_ns[row]), int(events.track[row]), trace.strings[int(events.request[row])], name)
        for row in rows
        if is_wanted(name := trace.strings[int(events.name[row])])
    ]
    return sorted(found, key=lambda mark: mark.ts_ns)


def _request_windows(trace: Trace) -> list[Window]:
    """Make the window of each request from the marks of the process that is furthest out: it saw the start first.

    A client's first token counts, not its server's, which may be stamped after the client has the bytes. Where the
    outermost process saw no first token, another's has to do.
    """
    starts = _first_by_request_and_process(trace, MARK_REQUEST_START)
    ends = _first_by_request_and_process(trace, MARK_FIRST_TOKEN)
    windows: list[Window] = []
    note = SOCKET_NOTE if "attached_ns" in (trace.manifest.get("target") or {}) else ""
    for request, start_by_process in starts.items():
        process, start = next(iter(start_by_process.items()))
        end_by_process = ends.get(request, {})
        end = end_by_process.get(process) or next(iter(end_by_process.values()), None)
        if end is not None and end.ts_ns > start.ts_ns:
            windows.append(Window(WindowKind.TTFT, len(windows), start.ts_ns, end.ts_ns, end.track, request, note))
    trace.quality.note(Issue.NO_FIRST_TOKEN, len(starts) - len(windows))
    return windows


def _first_by_request_and_process(trace: Trace, name: str) -> dict[str, dict[int, Mark]]:
    """Return the first mark of a name in each process, by request; both in order of time."""
    found: dict[str, dict[int, Mark]] = {}
    for mark in marks(trace, name):
        found.setdefault(mark.request, {}).setdefault(trace.tracks[mark.track].pid, mark)
    return found


def _load_window(trace: Trace, first_request_ns: int | None) -> Window | None:
    target = trace.manifest.get("target") or {}
    start_ns = target.get("start_ns")
    if not isinstance(start_ns, int):
        return None
    ready = [m for m in marks(trace, MARK_READY) if first_request_ns is None or m.ts_ns <= first_request_ns]
    if ready and ready[-1].ts_ns > start_ns:
        return Window(WindowKind.LOAD, 0, start_ns, ready[-1].ts_ns, ready[-1].track)
    track = trace.tracks.thread(int(target.get("pid", 0)))
    if first_request_ns is not None and first_request_ns > start_ns:
        return Window(
            WindowKind.LOAD,
            0,
            start_ns,
            first_request_ns,
            track,
            note="no model load was seen",
        )
    end_ns = target.get("end_ns") or _last_evidence_ns(trace)
    if end_ns <= start_ns:
        return None
    return Window(WindowKind.LOAD, 0, start_ns, end_ns, track, note=f"{NEVER_READY}: {_failure(trace)}")


def _failure(trace: Trace) -> str:
    """Name the process of the target that was killed first, or crashed: others end because of it."""
    killed = _marks(trace, lambda name: name.startswith(MARK_KILLED))
    target = trace.manifest.get("target") or {}
    if not killed:
        by = f", which {target.get('ended_by')} ended" if "interrupted_ns" in target else ""
        return f"ends with the target{by}"
    process = trace.tracks[killed[0].track]
    return f"{process.name or 'a process'} ({process.pid}) was {killed[0].name}"


def _last_evidence_ns(trace: Trace) -> int:
    last_event_ns = int(trace.events.end_ns.max()) if len(trace.events) else 0
    return max(last_event_ns, trace.sched.end_ns)
