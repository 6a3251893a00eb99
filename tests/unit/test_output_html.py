"""The page: one file, every number in it, and no text from outside as markup."""

from __future__ import annotations

import html.parser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from slmtrace.cli.main import main
from slmtrace.model.report import CauseShare, Finding, Report
from slmtrace.model.taxonomy import Cause, Phase, Stage, WindowKind
from slmtrace.output.diff import compare
from slmtrace.output.html import render_diff_html, render_html
from slmtrace.output.html.path import _phase_by_column, path_picture
from slmtrace.output.perfetto import write_perfetto
from slmtrace.units import format_ns
from tests.support.builders import MS, T0_NS, make_report, make_segments, make_window, sample_run

_VOID = {"meta", "link", "br"}


class Outline(html.parser.HTMLParser):
    """Collect what a page consists of, and check that its tags pair up."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.urls: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "action", "poster")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_one_file_without_a_script() -> None:
    page = Outline(render_html(sample_run()[1]))

    assert "script" not in page.tags
    assert page.urls == ["data:,"]


def test_the_page_says_all_numbers() -> None:
    _, report = sample_run()

    text = Outline(render_html(report)).text

    for window in report.windows:
        assert f"{window.label}: {format_ns(window.total_ns)}" in text
        assert all(format_ns(share.ns) in text for share in window.stages)
        assert all(f"{share.cause.phase.label}.{share.cause.label}" in text for share in window.causes)
    for word in ("State of the node", "Ledger", "model.safetensors", "resident_fraction"):
        assert word in text


def test_pictures_are_said_in_words_too() -> None:
    page = render_html(sample_run()[1])

    assert page.count('role="img"') == page.count("aria-label=")
    assert 'aria-label="storage 880 ms' in page


def hostile(text: str) -> Report:
    _, report = sample_run()
    window = report.windows[0]
    share = CauseShare(Cause.MAJOR_FAULT, window.total_ns, 1, 1, {"files": [{"name": text, "ns": 1}]})
    finding = Finding("x", Phase.STORAGE, Cause.MAJOR_FAULT, 1, text, text, 1, text)
    planted = replace(window, note=text, causes=[share], findings=[finding])
    return replace(
        report,
        capture={**report.capture, "engine": text, "model": text, "created": text, "status": text},
        state={text: {"before": {text: text}, "after": {text: [text]}}},
        windows=[planted],
        quality=[text],
    )


@pytest.mark.parametrize(
    "attack", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style><b>", "\x1b[31m"]
)
def test_texts_from_outside_are_no_markup(attack: str) -> None:
    for page in (render_html(hostile(attack)), render_diff_html(compare([hostile(attack)], [sample_run()[1]]))):
        outline = Outline(page)
        assert not outline.tags & {"script", "img", "b"}
        assert "\x1b" not in page


def test_a_page_of_a_thousand_requests_stays_below_a_megabyte() -> None:
    _, report = sample_run()
    many = [replace(report.windows[1], index=index) for index in range(1000)]

    page = render_html(replace(report, windows=[report.windows[0], *many]))

    assert len(page) < 1_000_000
    assert "ttft 999" in page


def test_an_empty_report_has_a_page() -> None:
    assert "No window was recorded" in Outline(render_html(make_report([]))).text


def test_the_picture_of_the_path_has_each_phase_where_its_time_is() -> None:
    segments = make_segments(
        T0_NS,
        [
            (250 * MS, Stage.WEIGHTS, Cause.MAJOR_FAULT, 0, -1),
            (250 * MS, Stage.IMPORT, Cause.IMPORT, 0, -1),
            (500 * MS, Stage.WEIGHTS, Cause.ANON_FAULT, 0, -1),
        ],
    )
    window = make_window(WindowKind.LOAD, 0, segments)

    phases = _phase_by_column(window, segments, Stage.WEIGHTS)

    quarter = len(phases) // 4
    expected = [Phase.STORAGE] * quarter + [-1] * quarter + [Phase.ALLOCATOR] * (2 * quarter)
    assert phases.tolist() == expected


def test_a_picture_of_a_million_segments_stays_small() -> None:
    n = 1_000_000
    random = np.random.default_rng(3)
    columns = [np.full(n, 1000), random.choice([Stage.WEIGHTS, Stage.IMPORT], n), random.choice(list(Cause), n)]
    end = T0_NS + np.cumsum(columns[0])
    segments = replace(
        make_segments(T0_NS, [(1, Stage.WEIGHTS, Cause.IMPORT, 0, -1)]),
        start_ns=end - columns[0],
        end_ns=end,
        stage=columns[1].astype(np.uint8),
        cause=columns[2].astype(np.uint8),
    )
    small = make_window(WindowKind.LOAD, 0, make_segments(T0_NS, [(n * 1000, Stage.WEIGHTS, Cause.IMPORT, 0, -1)]))

    assert len(path_picture(replace(small, segments=segments))) < 50_000


def test_the_command_prints_the_page_of_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_perfetto(*sample_run(), tmp_path / "a.pftrace")

    assert main(["report", str(tmp_path / "a.pftrace"), "--format", "html"]) == 0
    assert capsys.readouterr().out.startswith("<!doctype html>")
    assert main(["diff", *[str(tmp_path / "a.pftrace")] * 2, "--format", "html"]) == 0
    assert "alike" in capsys.readouterr().out


def test_a_finding_of_a_request_that_the_summary_leaves_out_stands_in_its_own_section() -> None:
    _, report = sample_run()
    finding = Finding("slow_x", Phase.STORAGE, Cause.MAJOR_FAULT, 1, "evidence 7", "remedy", 1, "high")
    last = report.windows[-1]
    html = render_html(replace(report, windows=[*report.windows[:-1], replace(last, findings=[finding])]))

    assert html.count("slow_x") == 1
    assert "evidence 7" in html
