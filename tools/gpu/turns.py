"""How many requests a workload answers, and when: all at once, or as many as whoever started it asks for, in turn."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

READY = "ready"


def numbers(n_requests: int, *, is_asked: bool) -> Iterator[int]:
    """Yield the numbers of the requests to answer.

    Asked, `ready` is printed whenever there is none left, and each line of standard input says how many more.
    """
    count = itertools.count()
    yield from itertools.islice(count, n_requests)
    while is_asked:
        print(READY, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield from itertools.islice(count, int(line))
