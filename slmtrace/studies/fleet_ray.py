"""Certify every node of a Ray cluster: one task pinned to each, with a limit of its own; nobody waits for the dead."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import SlmtraceError
from .fleet import DEAD, FAILED, HUNG, OK, Row, missing_row, parse_answer

CERTIFY = ("-m", "slmtrace", "certify", "--json")
# Beyond a node's own limit: for its worker to start, and for the answer to come back.
GRACE_S = 20.0
_POLL_S, _CONNECT_S = 1.0, 5.0


@dataclass(slots=True)
class _Task:
    """A node's current attempt."""

    node_id: str
    name: str
    attempt: int
    reference: Any
    deadline_s: float
    failure: str = ""  # why its worker went away, until it is known whether the node did


def run_fleet(
    address: str | None,
    arguments: Sequence[str] = CERTIFY,
    *,
    limit_s: float = 120.0,
    retries: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Run Python with `arguments`, which print a certificate, on each alive node, and return a row for every node.

    Raises:
        SlmtraceError: ray is not installed, or there is no cluster at `address`.
    """
    with _connected(address) as ray:
        return _ask_all(ray, list(arguments), limit_s, retries, say)


def _ask_all(ray: Any, arguments: list[str], limit_s: float, retries: int, say: Callable[[str], None]) -> list[Row]:
    known = {str(node["NodeID"]): node for node in ray.nodes()}
    rows = [missing_row(_name(node), DEAD, "was dead at the start") for node in known.values() if not node["Alive"]]
    remote = ray.remote(num_cpus=0, max_retries=0)(certify_here)

    def start(node_id: str, attempt: int) -> _Task:
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        reference = remote.options(scheduling_strategy=strategy).remote(arguments, limit_s)
        return _Task(node_id, _name(known[node_id]), attempt, reference, time.monotonic() + limit_s + GRACE_S)

    tasks = [start(node_id, 0) for node_id, node in known.items() if node["Alive"]]
    while tasks:
        asked = [task.reference for task in tasks if not task.failure]
        if not asked:
            time.sleep(_POLL_S)
        ready = ray.wait(asked, num_returns=1, timeout=_POLL_S)[0] if asked else []
        alive = {str(node["NodeID"]) for node in ray.nodes() if node["Alive"]}
        waiting: list[_Task] = []
        for task in tasks:
            row = _look(ray, task, is_ready=task.reference in ready, is_alive=task.node_id in alive)
            if row is None:
                waiting.append(task)
            elif row["status"] in (FAILED, HUNG) and task.attempt < retries and task.node_id in alive:
                say(f"{task.name}: {row['status']}, once more")
                waiting.append(start(task.node_id, task.attempt + 1))
            else:
                say(f"{task.name}: {row['verdict'] if row['status'] == OK else row['status']}")
                rows.append(row)
        tasks = waiting
    return sorted(rows, key=lambda row: str(row["node"]))


def certify_here(arguments: list[str], limit_s: float) -> tuple[str, int, str]:
    """Run on a node: return what the certificate's program printed, its exit code and its last words."""
    # In a session of its own, so that all that it started can be ended with it.
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, error = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        import os  # noqa: PLC0415  (this function travels to the node by itself)
        import signal  # noqa: PLC0415

        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "", -1, f"no certificate within {limit_s:.0f} s"
    return output, process.returncode, error[-4000:]


def _look(ray: Any, task: _Task, *, is_ready: bool, is_alive: bool) -> Row | None:
    """Return the row of an attempt that has ended, in one way or another; None: it goes on."""
    if is_ready:
        try:
            output, code, error = ray.get(task.reference)
        except ray.exceptions.RayTaskError as failure:
            return missing_row(task.name, FAILED, _first_line(failure))
        except ray.exceptions.RayError as failure:
            # A worker that is gone may be the first sign of a node that is.
            task.failure, task.deadline_s = _first_line(failure), time.monotonic() + GRACE_S
        else:
            return missing_row(task.name, HUNG, error) if code == -1 else parse_answer(task.name, output, code, error)
    if not is_alive:
        return missing_row(task.name, DEAD, "died while it was asked")
    if time.monotonic() > task.deadline_s:
        if task.failure:
            return missing_row(task.name, FAILED, task.failure)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.cancel(task.reference, force=True)
        return missing_row(task.name, HUNG, "did not answer in time")
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _name(node: dict[str, Any]) -> str:
    """Return a node's name: several may share a host."""
    return f"{node.get('NodeManagerHostname') or 'node'}-{str(node['NodeID'])[:8]}"


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Yield ray, connected to the cluster, and let go of it if it was not connected before."""
    try:
        import ray  # noqa: PLC0415
        import ray.util.scheduling_strategies  # noqa: PLC0415
    except ImportError as error:
        raise SlmtraceError("fleet run needs ray", hint="pip install 'slmtrace[fleet]'") from error
    if ray.is_initialized():
        yield ray
        return
    if address not in (None, "auto"):
        _require_listener(address)
    # Ray prints the log of each raylet that dies, to where our answer goes.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            ray.init(address=address or "auto", log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _no_cluster(address or "the usual place") from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _require_listener(address: str) -> None:
    """Ask the address first: Ray takes minutes to say that nobody is there."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address) from error


def _no_cluster(where: str) -> SlmtraceError:
    return SlmtraceError(f"there is no Ray cluster at {where}", hint="ray start --head, and its --address HOST:PORT")
