"""Comparisons add up exactly, and exchanging the sides negates them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from slmtrace.model.report import Report
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.output.diff import Comparison, compare, render_diff_markdown, render_diff_text
from slmtrace.output.diff.compare import Movement
from slmtrace.output.diff.rows import largest
from tests.support.builders import T0_NS, make_report, make_segments, make_window

pieces = st.lists(
    st.tuples(
        st.integers(1, 10**10), st.sampled_from(list(Stage)), st.sampled_from(list(Cause)), st.just(0), st.just(-1)
    ),
    min_size=1,
    max_size=6,
)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    windows = [make_window(WindowKind.LOAD, 0, make_segments(T0_NS, draw(pieces)))] if draw(st.booleans()) else []
    for index in range(draw(st.integers(0, 3))):
        windows.append(make_window(WindowKind.TTFT, index, make_segments(T0_NS, draw(pieces))))
    return make_report(windows)


pairs = st.integers(1, 4).flatmap(
    lambda n: st.tuples(st.lists(reports(), min_size=n, max_size=n), st.lists(reports(), min_size=n, max_size=n))
)


def deltas(comparison: Comparison) -> dict[tuple[str, str, str], int]:
    return {
        (window.label, group, one.name): one.delta_ns
        for window in comparison.windows
        for group in ("phases", "stages", "causes")
        for one in getattr(window, group)
    }


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_deltas_of_phases_stages_and_causes_sum_to_the_totals(sides: tuple[list[Report], list[Report]]) -> None:
    for window in compare(*sides).windows:
        for group in (window.phases, window.stages, window.causes):
            for side in ("a", "b"):
                assert sum(getattr(one, side).ns for one in group) == getattr(window.total, side).ns
            assert sum(one.delta_ns for one in group) == window.total.delta_ns


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_exchanging_the_sides_negates_every_delta(sides: tuple[list[Report], list[Report]]) -> None:
    there, back = compare(*sides), compare(*reversed(sides))

    assert deltas(there) == {key: -ns for key, ns in deltas(back).items()}
    separate = [one.is_separate for window in there.windows for one in window.causes]
    assert separate == [one.is_separate for window in back.windows for one in window.causes]


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_what_is_shown_sums_to_the_total(sides: tuple[list[Report], list[Report]]) -> None:
    for window in compare(*sides).windows:
        for group in (window.phases, window.stages, window.causes):
            assert sum(one.delta_ns for one in largest(group)) == window.total.delta_ns


@settings(max_examples=150, deadline=None)
@given(pairs)
def test_every_number_lies_in_the_range_of_its_repeats(sides: tuple[list[Report], list[Report]]) -> None:
    def fits(one: Movement) -> bool:
        return one.a.low_ns <= one.a.ns <= one.a.high_ns and one.b.low_ns <= one.b.ns <= one.b.high_ns

    for window in compare(*sides).windows:
        assert all(map(fits, [window.total, *window.phases, *window.stages, *window.causes]))


@settings(max_examples=50, deadline=None)
@given(pairs)
def test_every_comparison_can_be_rendered(sides: tuple[list[Report], list[Report]]) -> None:
    comparison = compare(*sides)

    assert all(len(line) <= 100 for line in render_diff_text(comparison, width=100).splitlines())
    assert render_diff_markdown(comparison).startswith("### slmtrace")
