"""The text and Markdown reports: what a reader relies on beyond the golden files."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slmtrace.model.events import NO_EVENT
from slmtrace.model.report import CauseShare, Finding, Report, SourceStatus
from slmtrace.model.taxonomy import Cause, Phase, Stage, WindowKind
from slmtrace.output.bars import stacked_bar
from slmtrace.output.markdown import render_markdown
from slmtrace.output.plain import plain, shorten_path
from slmtrace.output.summary import where
from slmtrace.output.text import render_text
from tests.support.builders import MS, US, make_report, make_segments, make_window, sample_run

HOSTILE = "evil\x1b[31m\n\u202e\u200b@everyone <script>|`x`"


def _sample() -> Report:
    return sample_run()[1]


def _hostile() -> Report:
    """A report whose every free text is hostile."""
    segments = make_segments(0, [(5 * MS, Stage.WEIGHTS, Cause.MAJOR_FAULT, 0, NO_EVENT)])
    detail = {Cause.MAJOR_FAULT: {"files": [{"name": "/m/" + HOSTILE, "ns": 5 * MS, "count": 1, "bytes": 1}]}}
    finding = Finding(HOSTILE, Phase.STORAGE, Cause.MAJOR_FAULT, MS, HOSTILE, HOSTILE, MS, "high")
    window = make_window(WindowKind.LOAD, 0, segments, detail=detail, note=HOSTILE, findings=[finding])
    names = ("id", "engine", "engine_version", "model", "tier", "status")
    return make_report(
        [window],
        capture=dict.fromkeys(names, HOSTILE) | {"host": {"kernel": HOSTILE, "cpus": HOSTILE}},
        sources=[SourceStatus(HOSTILE, "unavailable", HOSTILE, 0, 0), SourceStatus(HOSTILE, "partial", HOSTILE, 0, 0)],
        quality=[HOSTILE],
    )


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_no_line_is_wider_than_asked_for(width: int) -> None:
    for report in (_sample(), _hostile(), make_report([])):
        text = render_text(report, width=width)

        assert max(len(line) for line in text.splitlines()) <= width


def test_an_ordinary_run_fits_one_screen() -> None:
    n_lines = len(render_text(_sample()).splitlines())

    assert 16 <= n_lines <= 26


def test_names_cannot_drive_the_terminal() -> None:
    text = render_text(_hostile())

    assert "evil\\x1b[31m\\x0a\\u202e\\u200b" in text
    assert all(char.isprintable() for char in text.replace("\n", ""))


def test_without_color_there_is_no_escape_sequence_and_with_it_the_same_words() -> None:
    assert "\x1b" not in render_text(_sample())
    assert "\x1b[" in render_text(_sample(), color=True)


def test_the_surroundings_have_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    before = render_text(_sample(), color=True)

    for name, value in {"NO_COLOR": "1", "COLUMNS": "40", "TERM": "dumb", "FORCE_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)

    assert render_text(_sample(), color=True) == before


def test_one_window_is_shown_in_full() -> None:
    report = _sample()

    text = render_text(report, report.windows[0])

    for share in report.windows[0].causes:
        assert f"{share.cause.phase.label}.{share.cause.label}" in text
    for stage in report.windows[0].stages:
        assert stage.stage.label in text
    assert "/models/tiny/model.safetensors" in text


def test_a_program_that_never_got_ready_has_a_short_report_under_what_it_printed() -> None:
    load = _sample().windows[0]

    text = render_text(make_report([load]))

    assert len(text.splitlines()) < 20
    assert "files" not in text and "others" in text


def test_an_allocator_that_was_preloaded_is_named() -> None:
    state = {"allocator": {"before": {"name": "jemalloc"}, "after": {"name": "jemalloc"}}}

    text = render_text(replace(_sample(), state=state))

    assert "allocator jemalloc" in text.partition("load")[0]
    assert "allocator libc" not in render_text(_sample())


def test_what_is_left_out_of_the_stage_table_is_summed() -> None:
    report = _sample()
    text = render_text(report)

    assert "5 others        5.00 ms" in text
    shown = (Stage.TOKENIZE, Stage.PREFILL)
    assert sum(stage.ns for stage in report.windows[1].stages if stage.stage not in shown) == 5 * MS


def test_later_requests_are_shown_by_the_one_with_the_median_total() -> None:
    windows = [
        make_window(WindowKind.TTFT, index, make_segments(0, [(ms * MS, Stage.PREFILL, Cause.CPU_KERNEL, 0, NO_EVENT)]))
        for index, ms in enumerate([90, 31, 500, 30])
    ]

    text = render_text(make_report(windows))

    assert "later ttft  31.0 ms" in text
    assert "the median of 3 requests, 30.0 ms to 500 ms" in text


@pytest.mark.parametrize("width", [1, 7, 40, 79])
def test_a_bar_fills_its_columns_exactly(width: int) -> None:
    phases = {phase: 1 + 1000 * phase for phase in Phase}

    assert len(stacked_bar(phases, width, color=False)) == width
    assert len(stacked_bar(phases, width, color=True)) == width


def test_a_bar_of_nothing_is_empty() -> None:
    assert stacked_bar(dict.fromkeys(Phase, 0), 40, color=False).plain == ""


def test_a_missing_source_is_named_with_its_reason() -> None:
    text = render_text(_sample())

    assert "without cuda (no NVIDIA driver)" in text


def test_an_aborted_recording_and_lost_records_are_said() -> None:
    ledger = [{"source": "ebpf", "seen": 9, "written": 4, "decoded": 4, "lost": {"ring_full": 5}}]
    report = replace(_sample(), capture={**_sample().capture, "status": "aborted"}, ledger=ledger)

    for text in (render_text(report), render_markdown(report)):
        assert "aborted" in text
        assert "5 ring" in text


def test_markdown_stays_under_sixty_lines_at_its_longest() -> None:
    causes, stages = list(Cause), list(Stage)
    pieces = [(MS + n, stages[n % len(stages)], cause, 0, NO_EVENT) for n, cause in enumerate(causes)]
    detail = {cause: {"files": [{"name": f"/f{n}", "ns": 1} for n in range(9)]} for cause in causes}
    finding = Finding("id", Phase.DMA, Cause.D2H, US, "evidence", "remedy", US, "low")
    windows = [
        make_window(kind, index, make_segments(0, pieces), detail=detail, findings=[finding] * 3, note="note")
        for kind, index in [(WindowKind.LOAD, 0)] + [(WindowKind.TTFT, n) for n in range(9)]
    ]

    text = render_markdown(make_report(windows, quality=["doubt"] * 9))

    assert text.count("\n") < 60


def test_markdown_neutralises_markup_and_mentions() -> None:
    text = render_markdown(_hostile())

    outside_code = "".join(text.split("`")[::2])
    assert "@everyone" not in outside_code
    assert "<script>" not in outside_code
    assert all(char.isprintable() for char in text.replace("\n", ""))


def test_markdown_table_rows_have_as_many_cells_as_their_head() -> None:
    for report in (_sample(), _hostile()):
        tables = [line for line in render_markdown(report).splitlines() if line.startswith("|")]
        widths = [line.replace("\\|", "").count("|") for line in tables]
        rulers = [index for index, line in enumerate(tables) if line.startswith("| ---")]

        assert rulers
        for ruler, after in zip(rulers, [*(index - 1 for index in rulers[1:]), len(tables)], strict=True):
            assert set(widths[ruler - 1 : after]) == {widths[ruler]}


def test_harmless_text_stays_as_it_is_and_long_text_is_cut() -> None:
    assert plain("größe /models/模型.safetensors") == "größe /models/模型.safetensors"
    assert plain("a\ud800b") == "a\\ud800b"
    assert plain("x" * 300) == "x" * 255 + "…"


def test_a_shortened_path_keeps_its_last_part() -> None:
    assert shorten_path("/models/tiny/model.safetensors", 40) == "model.safetensors"
    assert shorten_path("/", 40) == "/"


def test_a_name_that_explains_next_to_nothing_does_not_stand_for_a_cause() -> None:
    def told(ns: int) -> str:
        functions = [{"name": "cupti buffer request", "ns": ns, "count": 3, "bytes": 0}]
        return where(CauseShare(Cause.PYTHON, 100 * MS, 50, 0, {"functions": functions}), 60)

    assert told(60 * MS) == "cupti buffer request"
    assert told(1 * MS) == "other code of the program on a CPU"
