from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmtrace.align.clocks import MAX_DRIFT_PPB, ClockMap, fit_clock_map
from slmtrace.capture.layout import ClockId, SlotKind
from slmtrace.decode import clock
from slmtrace.model.quality import Issue
from tests.support.logs import make_context, new_capture, new_log, only_log

SECOND = 10**9


def reads(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(rows, np.int64)


def test_one_read_gives_an_offset_and_half_its_width_as_the_bound() -> None:
    fitted = fit_clock_map(reads((1_000, 50_500, 2_001)))

    assert fitted == ClockMap(offset_ns=-49_000, drift_ppb=0.0, residual_ns=501, anchor_ns=50_500)


def test_the_tightest_read_near_the_start_wins() -> None:
    fitted = fit_clock_map(reads((0, 5_000, 9_000), (10_000, 10_050, 10_100), (20_000, 29_000, 90_000)))

    assert fitted.offset_ns == 0
    assert fitted.drift_ppb == 0.0


def test_no_read_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one read"):
        fit_clock_map(np.empty((0, 3), np.int64))


def test_without_drift_a_map_is_exact_at_wall_clock_values() -> None:
    ts = np.array([1_800_000_000_123_456_789, 1_800_000_000_123_456_790], np.int64)

    mapped = ClockMap(-1_799_999_000_000_000_001, 0.0, 5).apply(ts)

    assert mapped.tolist() == [1_000_123_456_788, 1_000_123_456_789]


def test_a_stepped_clock_shows_in_the_residual() -> None:
    step_ns = 7_000_000
    even = [(t, t + 100, t + 200) for t in (0, 10 * SECOND, 30 * SECOND)]
    stepped = [(20 * SECOND, 20 * SECOND + 100 + step_ns, 20 * SECOND + 200)]

    assert fit_clock_map(reads(*even)).residual_ns < 1_000
    assert fit_clock_map(reads(*even, *stepped)).residual_ns >= step_ns


def test_reads_that_are_too_close_for_a_drift_give_none() -> None:
    fitted = fit_clock_map(reads((0, 500, 1_000), (2_000, 2_900, 3_000), (4_000, 4_100, 5_000)))

    assert fitted.drift_ppb == 0.0


@st.composite
def clock_and_reads(draw: st.DrawFn) -> tuple[int, int, np.ndarray]:
    """Draw a clock that runs evenly (offset, drift) and bracketed reads of it."""
    offset_ns = draw(st.integers(-2 * 10**18, 2 * 10**18))
    drift_ppb = draw(st.integers(-MAX_DRIFT_PPB // 2, MAX_DRIFT_PPB // 2))
    at = draw(st.lists(st.integers(0, 3600 * SECOND), min_size=1, max_size=12, unique=True))
    rows = []
    for mono_ns in sorted(at):
        early, late = draw(st.tuples(st.integers(0, 50_000), st.integers(0, 50_000)))
        rows.append((mono_ns - early, other_clock(mono_ns, offset_ns, drift_ppb), mono_ns + late))
    return offset_ns, drift_ppb, reads(*rows)


def other_clock(mono_ns: int, offset_ns: int, drift_ppb: int) -> int:
    return mono_ns + offset_ns + mono_ns * drift_ppb // 10**9


@given(clock_and_reads(), st.floats(0, 1))
def test_the_error_stays_within_the_residual_between_the_reads(case: tuple[int, int, np.ndarray], share: float) -> None:
    offset_ns, drift_ppb, rows = case
    first, last = int(rows[0, 0]), int(rows[-1, 2])
    inside = [int(first + (last - first) * share)] if len(rows) > 1 else []
    values = np.array([other_clock(t, offset_ns, drift_ppb) for t in inside], np.int64)
    between = (values >= rows[:, 1].min()) & (values <= rows[:, 1].max())

    fitted = fit_clock_map(rows)

    errors = np.abs(fitted.apply(values) - np.array(inside, np.int64))[between]
    # Two more: the other clock counts whole nanoseconds, and so do we.
    assert (errors <= fitted.residual_ns + 2).all()


@given(st.integers(-(10**18), 10**18), st.integers(-400_000, 400_000))
def test_tight_reads_an_hour_apart_recover_offset_and_drift(offset_ns: int, drift_ppb: int) -> None:
    rows = [(t - 50, other_clock(t, offset_ns, drift_ppb), t + 50) for t in (0, 3600 * SECOND)]

    fitted = fit_clock_map(reads(*rows))

    assert fitted.offset_ns == -offset_ns
    assert fitted.drift_ppb == pytest.approx(-drift_ppb / (1 + drift_ppb / 1e9), abs=0.1)
    assert fitted.residual_ns <= 60


def test_the_clock_log_gives_its_sound_reads(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    log = new_log(capture, "clock")
    log.append(SlotKind.CLOCK, 100, 200, a=1_700_000_000_000_000_000, name=ClockId.REALTIME)
    log.append(SlotKind.CLOCK, 400, 300, a=5, name=ClockId.BOOTTIME)
    log.append(SlotKind.COUNTER, 400, a=5)
    log.close()
    context = make_context()

    fragment = clock.decode(only_log(capture), context)

    assert fragment.clock_reads is not None
    assert fragment.clock_reads.tolist() == [[ClockId.REALTIME, 100, 1_700_000_000_000_000_000, 200]]
    assert fragment.decoded == 3
    assert context.quality.counts == {Issue.NEGATIVE_DURATION: 1, Issue.UNKNOWN_KIND: 1}
