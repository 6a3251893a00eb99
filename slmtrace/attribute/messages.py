"""Messages that no wakeup tells of: whoever polls shared memory for one was held up by whoever sent it.

In come the ranges of send and receive calls on the same memory segment; out go, for each receive call that waited, the
sender and the time of its message.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from ..capture.layout import MARK_FIRST_TOKEN, RANGE_RECEIVE, RANGE_SEND
from ..model.events import EventKind, Events, Ints
from ..model.strings import Strings
from ..model.trace import Trace, Window
from ..model.tracks import NO_TRACK
from ..model.windows import marks


class Messages:
    """The awaited messages of each thread.

    A receive call has two instants where the path may turn: when the message was there, and when it was received.
    """

    def __init__(self) -> None:
        self._turns_ns: dict[int, list[int]] = defaultdict(list)
        self._sender_by_turn: dict[tuple[int, int], int] = {}

    def add(self, receiver: int, sender: int, sent_ns: int, received_ns: int) -> None:
        """Add a message that a thread waited for."""
        insort(self._turns_ns[receiver], sent_ns)
        insort(self._turns_ns[receiver], received_ns)
        self._sender_by_turn[receiver, sent_ns] = sender

    def receivers(self) -> list[int]:
        """Return the threads that waited for any."""
        return list(self._turns_ns)

    def last_turn_ns(self, track: int, ts_ns: int) -> int:
        """Return the latest turn of a thread before an instant; 0 if there is none."""
        turns = self._turns_ns.get(track, ())
        row = bisect_left(turns, ts_ns) - 1
        return turns[row] if row >= 0 else 0

    def sender_at(self, track: int, ts_ns: int) -> int:
        """Return who sent, at this very instant, what the thread waited for; NO_TRACK: nobody."""
        return self._sender_by_turn.get((track, ts_ns), NO_TRACK)


def find_messages(events: Events, strings: Strings) -> Messages:
    """Match each receive call with the send call on the same segment that it waited for."""
    messages = Messages()
    has_segment = (events.kind == EventKind.RANGE) & (events.file != 0)
    receives = np.flatnonzero(has_segment & (events.name == strings.intern(RANGE_RECEIVE)))
    sends = np.flatnonzero(has_segment & (events.name == strings.intern(RANGE_SEND)))
    sends = sends[np.argsort(events.end_ns[sends], kind="stable")]
    for segment in np.unique(events.file[receives]).tolist():
        of_segment = receives[events.file[receives] == segment], sends[events.file[sends] == segment]
        _match(events, *of_segment, messages)
    return messages


def add_deliveries(messages: Messages, trace: Trace, windows: Sequence[Window]) -> None:
    """Add the first tokens that servers wrote to the clients that the windows end with.

    A client may have been woken earlier, by the headers, and not have run since: what it needed came only now.
    """
    window_by_request = {window.request_id: window for window in windows if window.request_id}
    for mark in marks(trace, MARK_FIRST_TOKEN):
        window = window_by_request.get(mark.request)
        if window is not None and mark.track != window.track and window.start_ns < mark.ts_ns < window.end_ns:
            messages.add(window.track, mark.track, mark.ts_ns, window.end_ns)


def _match(events: Events, receives: Ints, sends: Ints, messages: Messages) -> None:
    """A call that had to wait got the first message whose sending ended after the call began."""
    position = np.searchsorted(events.end_ns[sends], events.start_ns[receives], side="right")
    receives, position = receives[position < len(sends)], position[position < len(sends)]
    for receive, send in zip(receives.tolist(), sends[position].tolist(), strict=True):
        receiver, sender = int(events.track[receive]), int(events.track[send])
        received_ns = int(events.end_ns[receive])
        if events.start_ns[send] < received_ns and sender != receiver:
            # The receiver may see the message while the sender is still in its call.
            messages.add(receiver, sender, min(int(events.end_ns[send]), received_ns), received_ns)
