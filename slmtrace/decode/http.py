"""The HTTP requests that the traced tree answered, as the marks that an instrument would have written."""

from __future__ import annotations

import numpy as np

from ..capture.layout import HTTP_BODY, HTTP_REQUEST, MARK_FIRST_TOKEN, MARK_REQUEST_START, RingType
from ..model.events import EventKind, Events, make_events
from ..model.strings import Strings
from .ring import Ring, Threads, low_half


def mark_requests(ring: Ring, threads: Threads, strings: Strings) -> Events:
    """Mark each request where its first bytes were read, and where the first bytes of its answer's body were written.

    The two belong together by process and descriptor. A body whose request was read before the recording has no mark.
    """
    rows = ring.of_type(RingType.HTTP)
    rows = rows.where((rows.b == HTTP_REQUEST) | (rows.b == HTTP_BODY))
    rows = rows.where(np.lexsort((rows.b, rows.ts_ns)))
    requests: list[int] = []
    number_by_connection: dict[tuple[int, int], int] = {}
    n_requests = 0
    columns = (low_half(rows.c).tolist(), low_half(rows.a).tolist(), (rows.b == HTTP_REQUEST).tolist())
    for process, descriptor, is_request in zip(*columns, strict=True):
        connection = (process, descriptor)
        if is_request:
            n_requests += 1
            number_by_connection[connection] = n_requests
            requests.append(n_requests)
        else:
            requests.append(number_by_connection.pop(connection, 0))
    is_whole = np.array(requests, np.int64) > 0
    names = np.where(rows.b == HTTP_REQUEST, strings.intern(MARK_REQUEST_START), strings.intern(MARK_FIRST_TOKEN))
    ids = np.array([strings.intern(f"http-{number}") if number else 0 for number in requests], np.int32)
    marks = make_events(
        len(rows),
        kind=EventKind.MARK,
        track=threads.tracks_of(rows.tid),
        start_ns=rows.ts_ns,
        end_ns=rows.ts_ns,
        name=names,
        request=ids,
    )
    return marks.take(is_whole)
