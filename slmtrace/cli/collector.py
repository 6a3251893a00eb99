"""`slmtrace collector`: the one privileged part, as a service for recordings that have no privileges."""

from __future__ import annotations

import grp
import os
from pathlib import Path

import click

from ..errors import UsageError
from ..probes.collector_service import serve
from ..probes.ebpf import require_interpreter


@click.command("collector", short_help="Serve eBPF collectors to unprivileged recordings, as root.")
@click.option("--socket", "path", metavar="PATH", type=click.Path(path_type=Path), required=True, help="Listen here.")
@click.option("--group", metavar="NAME", help="Who may connect, beside root.  [default: the service's own group]")
def command(path: Path, group: str | None) -> None:
    """Wait at a Unix socket, and run a collector for each recording that asks with --collector-socket.

    A caller gets what is its own: it can have its own processes followed, but none that runs with more rights, and the
    log is a file that it opened itself. Block I/O and memory pressure are the whole machine's.
    """
    serve(path, require_interpreter(), os.getgid() if group is None else _find_group(group))


def _find_group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(f"there is no group {name}", hint=f"groupadd --system {name}") from None
