"""A pass over the segments of a window: where the path waited for the GPU, what the GPU did takes the host's place.

Each wait is followed through its streams backwards: kernels, copies, and gaps. A gap belongs to the host: to the other
thread that launched what came next, where its call is known, else to the waiting thread itself. What the host did in
the wait by itself, page faults above all, stays what it was.

Without scheduler evidence, nobody sees that the path's thread waits for another one that copies. A large copy of
pageable memory blocks its caller, so it takes the time of its process that nothing finer explains. Kernels block
nobody: without a record of a wait nothing is made of them, and the host's time beside them is its own, launch work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..model.events import NO_EVENT, Ints, distinct_rows
from ..model.segments import Segments
from ..model.taxonomy import Cause, Phase, Stage
from ..model.trace import Window
from ..model.tracks import NO_TRACK, TrackKind
from .cuts import covering, cut_at, take
from .evidence import EvidenceBook
from .explain import merge
from .first_use import name_first_uses
from .gpu_calls import Calls, Piece, is_coarse
from .rules import OF_THE_HOST, Evidence, cause_beside_gpu, cause_of_work
from .timeline import Timeline, clip, gaps

_COARSE_PHASES = (Phase.RUNTIME, Phase.COMPUTE, Phase.UNATTRIBUTED)

_PHASE_OF_CAUSE = np.zeros(256, np.uint8)
for _cause in Cause:
    _PHASE_OF_CAUSE[_cause] = _cause.phase

Explain = Callable[[Window], Segments]


class GpuWaits:
    """The GPU work of a trace, and the waits of its threads for it."""

    def __init__(self, book: EvidenceBook) -> None:
        self._book, self._trace = book, book.trace
        self._work = book.gpu
        self._calls = {pid: Calls(book, work, self._threads(pid)) for pid, work in self._work.items()}

    def refine(self, window: Window, segments: Segments, explain: Explain) -> Segments:
        """Replace the waits for the GPU in a window's segments; they partition it as before.

        `explain` returns the segments of another thread's path through a part of the window.
        """
        busy = frozenset(pid for pid, work in self._work.items() if work.is_busy(window.start_ns, window.end_ns))
        return self._refine(window, segments, explain, busy, frozenset()) if busy else segments

    def off_path(self, window: Window, segments: Segments) -> Iterator[Segments]:
        """Yield what each stream did in the window beside the path."""
        for work in self._work.values():
            for track, timeline in work.timelines():
                on_path = take(segments, segments.track == track)
                taken = Timeline(on_path.start_ns, on_path.end_ns, np.zeros(len(on_path), np.int64))
                beside = gaps(clip(timeline, window.start_ns, window.end_ns), taken)
                names, inverse = distinct_rows(self._trace.events.name[beside.owner])
                cause = np.array([cause_of_work(self._trace.strings[name]) for name in names.tolist()], np.uint8)[
                    inverse
                ]
                on, stage = np.full(len(beside), track, np.int32), np.zeros(len(beside), np.uint8)
                yield Segments(beside.start_ns, beside.end_ns, on, stage, cause, beside.owner.astype(np.int32))

    def _refine(
        self, window: Window, segments: Segments, explain: Explain, busy: frozenset[int], above: frozenset[int]
    ) -> Segments:
        """Refine the segments; `above` are the threads whose waits led here: nobody waits for a wait on itself."""
        parts = []
        for track in np.unique(segments.track).tolist():
            mine = take(segments, np.flatnonzero(segments.track == track))
            pid = self._trace.tracks[track].pid
            if pid not in busy:
                parts.append(mine)
                continue
            mine, launches = self._replace(mine, track, self._pieces(mine, track, self._calls[pid]))
            mine = self._beside_gpu(mine)
            if len(mine):
                mine = name_first_uses(window, mine, track, self._work[pid], self._book)
            parts.append(mine)
            for start_ns, end_ns, stage, piece in launches:
                part = Window(window.kind, window.index, start_ns, end_ns, piece.launcher, window.request_id)
                parts.append(self._launcher(part, stage, piece, explain, busy, above | {track}))
        return merge(parts)

    def _launcher(
        self, part: Window, stage: int, piece: Piece, explain: Explain, busy: frozenset[int], above: frozenset[int]
    ) -> Segments:
        """Explain a gap by the thread that launched next; in a circle of waits, it is only a gap."""
        if piece.launcher in above:
            return _one(part, piece.launcher, stage, piece.cause)
        found = self._refine(part, explain(part), explain, busy, above)
        return Segments(
            found.start_ns, found.end_ns, found.track, np.full(len(found), stage, np.uint8), found.cause, found.event
        )

    def _pieces(self, mine: Segments, track: int, calls: Calls) -> list[Piece]:
        low_ns, high_ns = int(mine.start_ns[0]), int(mine.end_ns[-1])
        pieces = [piece for piece in calls.pieces(track, low_ns, high_ns) if piece.end_ns > piece.start_ns]
        return sorted([*calls.guesses(low_ns, high_ns), *pieces], key=lambda piece: piece.start_ns)

    def _replace(
        self, mine: Segments, track: int, pieces: list[Piece]
    ) -> tuple[Segments, list[tuple[int, int, int, Piece]]]:
        """Cut a thread's segments at the pieces, and put each where it may go; return apart what others explain."""
        if not pieces:
            return mine, []
        edges = np.array([(piece.start_ns, piece.end_ns) for piece in pieces], np.int64)
        cut = cut_at(mine, edges)
        choice = self._choose(cut, edges, pieces)
        chosen = np.flatnonzero(choice >= 0)
        by_piece = choice[chosen]
        track_of, row_of, cause_of, launcher_of = (
            np.array([getattr(piece, name) for piece in pieces], np.int64)[by_piece]
            for name in ("track", "row", "cause", "launcher")
        )
        is_work = row_of != NO_EVENT
        keeps = ~is_work & (cut.cause[chosen] == Cause.RUN_QUEUE)
        cut.track[chosen] = np.where(is_work, track_of, track)
        cut.event[chosen] = np.where(is_work, row_of, cut.event[chosen])
        cut.cause[chosen] = np.where(keeps, Cause.RUN_QUEUE, cause_of)
        elsewhere = chosen[launcher_of != NO_TRACK]
        launches = [
            (int(cut.start_ns[at]), int(cut.end_ns[at]), int(cut.stage[at]), pieces[int(choice[at])])
            for at in elsewhere.tolist()
        ]
        return take(cut, np.setdiff1d(np.arange(len(cut)), elsewhere)), launches

    def _choose(self, cut: Segments, edges: Ints, pieces: list[Piece]) -> Ints:
        """Return which piece goes where, -1 for none: a record of a call before a guess, a guess into coarse time."""
        is_guess = np.array([piece.is_guess for piece in pieces], np.bool_)
        is_queued = cut.cause == Cause.ENGINE_QUEUE
        phase = _PHASE_OF_CAUSE[cut.cause]
        evidence = np.where(cut.event == NO_EVENT, Evidence.NONE, self._book.evidence[cut.event])
        may_guess = np.isin(phase, _COARSE_PHASES) & is_coarse(evidence) & ~is_queued
        may_replace = ~np.isin(phase, OF_THE_HOST) & ~is_queued
        guessed = np.where(may_guess, covering(cut.start_ns, edges, np.flatnonzero(is_guess)), -1)
        recorded = np.where(may_replace, covering(cut.start_ns, edges, np.flatnonzero(~is_guess)), -1)
        return np.where(recorded >= 0, recorded, guessed)

    def _beside_gpu(self, mine: Segments) -> Segments:
        """Name a host's own time for what it is beside a GPU."""
        has_sched = not self._trace.sched.is_empty
        key = mine.stage.astype(np.int64) << 8 | mine.cause
        distinct, inverse = np.unique(key, return_inverse=True)
        causes = [cause_beside_gpu(Stage(k >> 8), Cause(k & 0xFF), has_sched) for k in distinct.tolist()]
        cause = np.array(causes, np.uint8)[inverse]
        return Segments(mine.start_ns, mine.end_ns, mine.track, mine.stage, cause, mine.event)

    def _threads(self, pid: int) -> list[int]:
        tracks = self._trace.tracks
        return [row for row in tracks.rows(TrackKind.THREAD) if tracks[row].pid == pid]


def _one(part: Window, track: int, stage: int, cause: Cause) -> Segments:
    return Segments(
        np.array([part.start_ns], np.int64),
        np.array([part.end_ns], np.int64),
        np.array([track], np.int32),
        np.array([stage], np.uint8),
        np.array([cause], np.uint8),
        np.array([NO_EVENT], np.int32),
    )
