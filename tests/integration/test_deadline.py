"""Work that has a deadline, with a real clock."""

from __future__ import annotations

import math
import signal
import subprocess
import time

import pytest

from slmtrace.recording.deadline import OutOfTime, ended_at


def test_work_of_ours_and_a_program_that_it_waits_for_end_at_the_deadline() -> None:
    before, start = signal.getsignal(signal.SIGALRM), time.monotonic()

    with pytest.raises(OutOfTime), ended_at(start + 0.2):
        while True:
            pass
    with pytest.raises(OutOfTime), ended_at(start + 0.4):
        subprocess.run(["sleep", "60"], check=True)

    assert 0.4 <= time.monotonic() - start < 5
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_work_that_is_done_in_time_goes_on_and_a_deadline_that_is_over_lets_none_begin() -> None:
    with ended_at(math.inf):
        n_done = 1
    with ended_at(time.monotonic() + 60):
        n_done += 1
    with pytest.raises(OutOfTime), ended_at(0.0):
        n_done += 1

    assert n_done == 2
