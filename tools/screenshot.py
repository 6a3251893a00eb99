"""Open a trace in the offline Perfetto UI, headless, save a picture of it, and say how long both took.

    python tools/screenshot.py TRACE OUT.png [--window load|ttft:0] [--size 1600x1000] [--select NAME]

Needs the extra `dev` (playwright, viztracer) and Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import sync_playwright

from slmtrace.errors import SlmtraceError
from slmtrace.viewer import Scene, TraceServer, set_scene

CHROMIUM = "/usr/bin/chromium"
_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"]
_FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
_LOAD_TIMEOUT_MS, _IDLE_MS = 300_000, 800
# A regular expression is matched in Playwright's driver, so requests to the server are not held up.
_ELSEWHERE = re.compile(r"^https?://(?!127\.0\.0\.1)")


def main() -> int:
    """Parse the command line and take the picture."""
    parser = argparse.ArgumentParser(description="Save a picture of a trace in the Perfetto UI.")
    parser.add_argument("trace", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--window", default="", help="load, ttft or ttft:N; without it the whole trace")
    parser.add_argument("--size", default="1600x1000")
    parser.add_argument("--expand", default="", help="open the groups whose names match, not the busiest threads")
    parser.add_argument("--pin", default="", help="put the tracks whose names match at the top")
    parser.add_argument("--select", default="", help="select the first slice of this name")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    try:
        scene = set_scene(options.trace, options.window)
        scene = replace(scene, expanded=options.expand or scene.expanded)
        take_picture(options.trace, options.picture, scene, (width, height), options.select, options.pin)
    except SlmtraceError as error:
        print(f"screenshot: {error}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


def take_picture(
    trace: Path, picture: Path, scene: Scene, size: tuple[int, int] = (1600, 1000), select: str = "", pin: str = ""
) -> None:
    """Open the trace, wait until the UI is idle, and save what it shows."""
    with TraceServer(trace) as server, open_page(server.url(scene), size, print) as page:
        page.evaluate("() => window.ctx.commands.runCommand('dev.perfetto.ToggleLeftSidebar')")
        if pin:
            page.evaluate("(names) => window.ctx.commands.runCommand('dev.perfetto.PinTracksByRegex', names)", pin)
        _select(page, select)
        errors = page.evaluate("() => Number(window.app.trace.traceInfo.importErrors)")
        page.screenshot(path=str(picture))
    if errors:
        raise SlmtraceError(f"{trace}: {errors} import errors", hint="query the table stats for their names")


@contextlib.contextmanager
def open_page(
    url: str, size: tuple[int, int] = (1600, 1000), say: Callable[[str], None] = lambda _: None
) -> Iterator[Any]:
    """Yield a page of the Perfetto UI that has loaded its trace and is idle; no request leaves the machine.

    `say` is told how long the UI took to load the trace, and from then on to show it.
    """
    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=_FLAGS,
            viewport={"width": size[0], "height": size[1]},
            service_workers="block",
        )
        context.route(_ELSEWHERE, lambda route: route.abort())
        page = context.pages[0]
        begin = time.monotonic()
        page.goto(url)
        page.wait_for_function("() => window.ctx && window.ctx.traceInfo !== undefined", timeout=_LOAD_TIMEOUT_MS)
        loaded = time.monotonic()
        _wait_until_idle(page)
        shown_s = time.monotonic() - loaded - _IDLE_MS / 1000
        say(f"loaded in {loaded - begin:.1f} s, shown {shown_s:.1f} s later")
        yield page
        context.close()


def _select(page: Any, name: str) -> None:
    """Select the first slice of a name; without a name, undo the UI's own selection of the stack samples."""
    page.evaluate(
        """async (name) => {
            const {engine, selection, commands} = window.ctx;
            selection.clearSelection();
            if (name) {
                const found = await engine.query(`select id from slice where name = '${name}' limit 1`);
                selection.selectSqlEvent('slice', found.firstRow({id: 0}).id, {});
            } else if ((await engine.query('select 1 from perf_sample limit 1')).numRows()) {
                commands.runCommand('dev.perfetto.ToggleDrawer');
            }
        }""",
        name,
    )
    _wait_until_idle(page)


def _wait_until_idle(page: Any) -> None:
    page.evaluate(f"() => window.waitForPerfettoIdle({_IDLE_MS})")


if __name__ == "__main__":
    sys.exit(main())
