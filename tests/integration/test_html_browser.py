"""The pages in a real browser: on a telephone and a desktop, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slmtrace.output.diff import compare
from slmtrace.output.html import render_diff_html, render_html
from tests.support.builders import sample_run

pytestmark = pytest.mark.browser

_CHROMIUM = "/usr/bin/chromium"


def _report() -> str:
    return render_html(sample_run()[1])


def _diff() -> str:
    _, report = sample_run()
    shorter = replace(report, state={}, windows=[replace(report.windows[0]), *report.windows[2:]])
    return render_diff_html(compare([report], [shorter]))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("render", [_report, _diff], ids=["report", "diff"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_a_page_fits_and_asks_for_nothing(
    browser: Any, tmp_path: Path, width: int, scheme: str, render: Callable[[], str]
) -> None:
    path = tmp_path / "page.html"
    path.write_text(render())
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))

    page.goto(path.as_uri())
    page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    assert page.evaluate("() => document.documentElement.scrollWidth") == width
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    back, text = page.evaluate(
        "() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert _contrast(back, text) > 7
    assert (_luminance(back) < 0.1) == (scheme == "dark")
    page.close()


def _open_report(browser: Any, tmp_path: Path, width: int, height: int) -> Any:
    path = tmp_path / "page.html"
    path.write_text(_report())
    page = browser.new_page(viewport={"width": width, "height": height})
    page.goto(path.as_uri())
    return page


def test_rows_stay_low_on_a_telephone(browser: Any, tmp_path: Path) -> None:
    page = _open_report(browser, tmp_path, width=375, height=900)

    lines = page.evaluate(
        "() => Math.max(...[...document.querySelectorAll('td.wide')].map((n) => n.offsetHeight))"
        " / parseFloat(getComputedStyle(document.body).lineHeight)"
    )

    assert lines < 5
    page.close()


def test_the_bars_of_all_windows_and_stages_fit_a_telephone(browser: Any, tmp_path: Path) -> None:
    page = _open_report(browser, tmp_path, width=375, height=900)

    right = page.evaluate(
        "() => Math.max(...[...document.querySelectorAll('.bar')].map((n) => n.getBoundingClientRect().right))"
    )

    assert right <= 375
    page.close()


def test_a_page_prints_without_cutting_its_tables(browser: Any, tmp_path: Path) -> None:
    page = _open_report(browser, tmp_path, width=794, height=1123)
    page.emulate_media(media="print")

    cut = page.evaluate(
        "() => [...document.querySelectorAll('.scroll')].filter((n) => n.scrollWidth > n.clientWidth + 1).length"
    )

    assert cut == 0
    page.close()


def _luminance(color: str) -> float:
    """Return the relative luminance of an rgb() color (WCAG 2.2)."""
    channels = [int(part) / 255 for part in color.removeprefix("rgb(").rstrip(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)
