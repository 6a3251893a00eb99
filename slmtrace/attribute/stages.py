"""The stages of a thread as they are to one request, which shares its threads with others.

What a thread does for another request is no stage of this one: this one is still on its way to its own next stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..capture.layout import STEP
from ..model.events import EventKind
from ..model.taxonomy import Stage, WindowKind
from ..model.trace import Window
from .evidence import RANGE_KINDS, EvidenceBook
from .timeline import COLUMNS, Timeline, clip, gaps, overlay, sequence

_LOAD_STAGES = tuple(stage for stage in Stage if stage.info.window is WindowKind.LOAD)
# Before the engine's first step for a request, and after its begin.
_EARLY = (Stage.RECEIVE, Stage.TOKENIZE, Stage.SUBMIT)
_LATE = (
    *(Stage.DISPATCH, Stage.PREPARE, Stage.PREFILL, Stage.SAMPLE),
    *(Stage.RETURN, Stage.DETOKENIZE, Stage.DELIVER),
)
# Requests are served one after the other here; a step, and the way back from it, is for all that are in it.
_ONE_BY_ONE = (*_EARLY, Stage.DETOKENIZE, Stage.DELIVER)


@dataclass(slots=True)
class RequestStages:
    """The stages of every thread, as they are to one window's request."""

    book: EvidenceBook
    _serving: dict[int, Timeline] = field(default_factory=dict)
    _step_ns: dict[str, int] | None = None
    _renders: dict[tuple[str, int], list[tuple[int, int]]] | None = None

    def of(self, window: Window, track: int) -> Timeline:
        """Return a thread's stages in the window, without what it did for other requests; owners are Stage values.

        While loading, an engine tries itself out, on a request of its own: that is a stage of the load.
        """
        among = _LOAD_STAGES if window.kind is WindowKind.LOAD else tuple(Stage)
        stages = clip(self.book.stages(track, among), window.start_ns, window.end_ns)
        if window.kind is WindowKind.LOAD or not window.request_id:
            return stages
        stages = self._in_season(window, self._without_others(window, track, stages))
        tokenizing = self._tokenizing(window, self.book.trace.tracks[track].pid)
        is_submit = stages.owner == Stage.SUBMIT
        return overlay(_pick(stages, ~is_submit), overlay(tokenizing, _pick(stages, is_submit)))

    def _tokenizing(self, window: Window, pid: int) -> Timeline:
        """Return when the front end awaited the tokens of the prompt, on whatever thread they were made."""
        if self._renders is None:
            self._renders = _renders(self.book)
        start_ns, end_ns = np.array(self._renders.get((window.request_id, pid), []), np.int64).reshape(-1, 2).T
        return sequence(start_ns, end_ns, np.full(len(start_ns), Stage.TOKENIZE, np.int64))

    def first_step_ns(self, request_id: str) -> int:
        """Return when the engine's first step for a request began; 0: no step was seen."""
        if self._step_ns is None:
            self._step_ns = _first_steps(self.book)
        return self._step_ns.get(request_id, 0)

    def _without_others(self, window: Window, track: int, stages: Timeline) -> Timeline:
        serving = clip(self._serving_of(track), window.start_ns, window.end_ns)
        request = self.book.trace.strings.intern(window.request_id)
        is_other = self.book.trace.events.request[serving.owner] != request
        others = _pick(serving, is_other)
        return gaps(stages, others)

    def _in_season(self, window: Window, stages: Timeline) -> Timeline:
        """Leave out the stages that a request cannot be in before or after its first step began."""
        step_ns = self.first_step_ns(window.request_id)
        if not step_ns:
            return stages
        before, after = clip(stages, 0, step_ns), clip(stages, step_ns, window.end_ns)
        parts = [_pick(before, ~np.isin(before.owner, _LATE)), _pick(after, ~np.isin(after.owner, _EARLY))]
        return Timeline(*(np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS))

    def _serving_of(self, track: int) -> Timeline:
        """Return when a thread served one request in particular; owners are event rows."""
        if track not in self._serving:
            events, rows = self.book.trace.events, self.book.rows(track, RANGE_KINDS)
            is_one = (events.request[rows] != 0) & np.isin(events.stage[rows], _ONE_BY_ONE)
            self._serving[track] = self.book.nested(rows[is_one])
        return self._serving[track]


def _first_steps(book: EvidenceBook) -> dict[str, int]:
    """Return when the engine's first step for each request began."""
    found: dict[str, int] = {}
    for row in _asyncs(book, book.trace.events.name == book.trace.strings.intern(STEP)):
        found.setdefault(_request(book, row), int(book.trace.events.start_ns[row]))
    return found


def _renders(book: EvidenceBook) -> dict[tuple[str, int], list[tuple[int, int]]]:
    """Return when the tokens of each request were awaited, by request and process."""
    events, tracks = book.trace.events, book.trace.tracks
    found: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for row in _asyncs(book, events.stage == Stage.TOKENIZE):
        key = _request(book, row), tracks[int(events.track[row])].pid
        found.setdefault(key, []).append((int(events.start_ns[row]), int(events.end_ns[row])))
    return found


def _asyncs(book: EvidenceBook, chosen: NDArray[np.bool_]) -> list[int]:
    """Return those of the chosen rows that are stretches of requests, by their start."""
    events = book.trace.events
    rows = np.flatnonzero(chosen & (events.kind == EventKind.ASYNC))
    ordered: list[int] = rows[np.argsort(events.start_ns[rows], kind="stable")].tolist()
    return ordered


def _request(book: EvidenceBook, row: int) -> str:
    return book.trace.strings[int(book.trace.events.request[row])]


def _pick(timeline: Timeline, which: NDArray[np.bool_]) -> Timeline:
    return Timeline(timeline.start_ns[which], timeline.end_ns[which], timeline.owner[which])
