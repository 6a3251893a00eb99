"""Whatever slices go into a timeline, those that come out nest, and none is lost or stretched."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slmtrace.output.perfetto.emit import Arg, EventWriter, Slices
from slmtrace.output.perfetto.nesting import nest, spread
from tests.support.pftrace import DecodedTrace, decode

# Few tracks and short times make ties, crossings and empty slices frequent.
_SLICE = st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 12), st.integers(0, 3))
_SLICES = st.lists(_SLICE, min_size=1, max_size=60)
_Rows = list[tuple[int, int, int, int]]


def _columns(rows: _Rows) -> list[np.ndarray]:
    return [np.array(column, np.int64) for column in zip(*rows, strict=True)]


def _write(rows: _Rows) -> tuple[DecodedTrace, EventWriter]:
    """Write slices named by their row; the last number of a row becomes an optional argument and two flows."""
    track, start, dur, extra = _columns(rows)
    file = io.BytesIO()
    writer = EventWriter(file)
    writer.begin_events(0)
    uuids = np.array([writer.track(f"lane {number}") for number in range(3)])
    names = np.array([writer.name(f"s{row}") for row in range(len(rows))])
    writer.slices(
        Slices(
            uuids[track],
            start,
            start + dur,
            names,
            "test",
            args=[Arg("extra", extra)],
            flow_out=extra & 1,
            flow_in=extra & 2,
        )
    )
    return decode(file.getvalue()), writer


@given(_SLICES)
def test_every_slice_comes_back_with_its_own_name_track_and_start(rows: _Rows) -> None:
    decoded, _ = _write(rows)

    actual = sorted((one.name, one.track, one.start_ns) for one in decoded.slices)
    assert actual == sorted((f"s{row}", f"lane {track}", start) for row, (track, start, _, _) in enumerate(rows))
    assert decoded.n_unmatched == 0


@given(_SLICES)
def test_an_end_is_what_was_asked_for_or_the_end_of_an_earlier_slice(rows: _Rows) -> None:
    decoded, writer = _write(rows)

    wanted = {f"s{row}": start + max(dur, 1) for row, (_, start, dur, _) in enumerate(rows)}
    cut = [one for one in decoded.slices if one.end_ns != wanted[one.name]]
    assert all(one.start_ns < one.end_ns < wanted[one.name] for one in cut)
    assert len(cut) == writer.n_cut
    assert all(one.end_ns in {wanted[other.name] for other in decoded.slices if other is not one} for one in cut)


@given(_SLICES)
def test_slices_of_one_track_never_cross(rows: _Rows) -> None:
    decoded, _ = _write(rows)

    for one in decoded.slices:
        for other in decoded.slices:
            if one.track == other.track and one.start_ns < other.start_ns < one.end_ns:
                assert other.end_ns <= one.end_ns


@given(_SLICES)
def test_slices_that_already_nest_are_left_as_they_are(rows: _Rows) -> None:
    track, start, dur, _ = _columns(rows)
    ends, _, _ = nest(track, start, start + dur)

    again, _, n_cut = nest(track, start, ends)

    assert n_cut == 0
    assert again.tolist() == ends.tolist()


@given(_SLICES)
def test_in_the_file_all_ends_come_before_the_begins_and_parents_before_children(rows: _Rows) -> None:
    decoded, _ = _write(rows)

    types = [event["type"] for event in decoded.events]
    assert types == sorted(types, reverse=True)  # END is 2, BEGIN is 1
    depth_by_name = {one.name: one.depth for one in decoded.slices}
    depths = [depth_by_name[event["name"]] for event in decoded.events if event["type"] == 1]
    assert depths == sorted(depths)


@given(_SLICES)
def test_optional_fields_stay_with_their_slice(rows: _Rows) -> None:
    decoded, _ = _write(rows)

    for event in decoded.events:
        if event["type"] == 1:
            extra = rows[int(event["name"][1:])][3]
            assert event["args"] == ({"extra": extra} if extra else {})
            assert event["flow_out"] == ([extra & 1] if extra & 1 else [])
            assert event["flow_in"] == ([extra & 2] if extra & 2 else [])


@given(_SLICES)
def test_overlapping_slices_spread_over_as_few_lanes_as_overlap_at_once(rows: _Rows) -> None:
    track, start, dur, _ = _columns(rows)
    end = start + np.maximum(dur, 1)

    lane = spread(track, start, start + dur)

    for number in range(3):
        mine = track == number
        at_once = max((((start[mine] <= t) & (t < end[mine])).sum() for t in start[mine]), default=0)
        assert len(np.unique(lane[mine])) == at_once
    for a in range(len(rows)):
        for b in range(a):
            if track[a] == track[b] and lane[a] == lane[b]:
                assert end[a] <= start[b] or end[b] <= start[a]
