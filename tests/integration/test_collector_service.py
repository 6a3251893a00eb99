"""The collector as a service: what an unprivileged user gets of it, and what nobody gets."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import RingType
from slmtrace.capture.rawlog import create
from slmtrace.decode.ring import Ring, read_ring
from slmtrace.probes import collector_service
from slmtrace.probes.collector_connection import CollectorConnection
from tests.support.logs import make_context, new_capture
from tests.support.targets import Target

pytestmark = [
    pytest.mark.root,
    pytest.mark.bpf,
    pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv and unshare (util-linux) are not installed"),
]

ROOT = Path(__file__).resolve().parents[2]
USER, GROUP, OTHER = 12345, 54321, 54322
REQUEST = {"ring_bytes": 1 << 20, "threshold_ns": 20_000, "malloc": "default", "http": False}
# As `slmtrace collector`, whose --group is a name.
SERVE = """
import sys
from pathlib import Path
from slmtrace.probes.collector_service import serve
from slmtrace.probes.ebpf import require_interpreter
serve(Path(sys.argv[1]), require_interpreter(), int(sys.argv[2]))
"""


@contextmanager
def service(place: Path) -> Iterator[Path]:
    """Run a service for GROUP."""
    path = place / "socket"
    with subprocess.Popen([sys.executable, "-c", SERVE, str(path), str(GROUP)], cwd=ROOT) as server:
        try:
            while not is_ready(path):
                assert server.poll() is None
                time.sleep(0.01)
            yield path
        finally:
            server.terminate()
    assert not path.exists()


def is_ready(path: Path) -> bool:
    return path.exists() and stat.S_IMODE(path.stat().st_mode) == 0o660


def as_user(group: int, *command: str) -> list[str]:
    """Return a command that runs as USER; it may read everything, for the interpreter may lie in a home of root's."""
    kept = "-all,+dac_read_search"
    return [
        *("setpriv", "--reuid", str(USER), "--regid", str(group), "--clear-groups", "--bounding-set", kept),
        *("--inh-caps", kept, "--ambient-caps", kept, *command),
    ]


def record(socket_path: Path, place: Path, *options: str, group: int = GROUP) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slmtrace", "record", "--collector-socket", str(socket_path)]
    command += ["--probes", "ebpf", "--require", "ebpf", "-o", str(place / "out"), *options]
    return subprocess.run(as_user(group, *command), cwd=ROOT, capture_output=True, text=True, check=False)


def opened(socket_path: Path, capture: Capture) -> tuple[CollectorConnection, dict[str, Any]]:
    """Ask as root for a recording of root's."""
    log = create(capture.raw / "ebpf.bin", b"")
    collector = CollectorConnection(str(socket_path), REQUEST, log)
    os.close(log)
    return collector, collector.read(60) or {}


def ring_of(capture: Capture) -> Ring:
    logs, _ = capture.raw_logs()
    (log,) = [log for log in logs if log.header["source"] == "ebpf"]
    return read_ring(log, make_context())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory of USER's that can be reached."""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    os.chown(tmp_path, USER, GROUP)
    yield tmp_path


def test_a_user_without_privileges_records_and_owns_what_was_recorded(place: Path) -> None:
    with service(place) as path:
        done = record(path, place, "--", "/bin/ls", "/usr")

    assert done.returncode == 0, done.stderr
    log = place / "out" / "raw" / "ebpf.bin"
    status = log.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (USER, GROUP, 0o600)
    source = Capture.open(place / "out").read_manifest()["sources"][0]
    assert source["status"] == "ok", source
    assert source["records"] > 50


def test_who_is_not_of_the_group_is_told_what_to_ask_for(place: Path) -> None:
    with service(place) as path:
        done = record(path, place, "--", "/bin/true", group=OTHER)

    assert done.returncode == 3
    assert f"no collector answers at {path}: Permission denied" in done.stderr
    assert "slmtrace collector --socket PATH --group GROUP" in done.stderr


def test_malloc_full_is_refused_with_the_reason(place: Path) -> None:
    with service(place) as path:
        done = record(path, place, "--malloc", "full", "--", "/bin/true")

    assert done.returncode == 3
    assert "--malloc full slows every process that uses the allocator" in done.stderr


def test_another_users_process_is_not_followed(place: Path) -> None:
    steer = f"""
import os, sys
from pathlib import Path
from slmtrace.capture.rawlog import create
from slmtrace.probes.collector_connection import CollectorConnection
log = create(Path(sys.argv[2]), b"")
collector = CollectorConnection(sys.argv[1], {REQUEST!r}, log)
print(collector.read(60)["event"])
for command in ("enroll 1", "enroll " + str(os.getpid()), "allocator /lib/x86_64-linux-gnu/libc.so.6"):
    print(collector.ask(command, 10)["event"])
"""
    with service(place) as path:
        command = as_user(GROUP, sys.executable, "-c", steer, str(path), str(place / "log"))
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.stdout.split() == ["ready", "error", "ok", "error"], done.stderr


def test_a_caller_in_another_pid_namespace_is_told_what_to_grant(place: Path) -> None:
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "slmtrace", "record"]
    options = ["--probes", "ebpf", "--require", "ebpf", "-o", str(place / "out"), "--", "/bin/true"]
    with service(place) as path:
        command += ["--collector-socket", str(path), *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 3
    assert "the caller lives in another PID namespace: start its container with hostPID" in done.stderr


def test_a_program_with_more_rights_is_not_followed(place: Path) -> None:
    privileged = place / "privileged"
    shutil.copy("/bin/sleep", privileged)
    privileged.chmod(0o4755)
    with service(place) as path:
        done = record(path, place, "--", "/bin/sh", "-c", f"/bin/sleep 0.01; {privileged} 0.01; /bin/sleep 0.01")

    assert done.returncode == 0, done.stderr
    ring = ring_of(Capture.open(place / "out"))
    # The shell, and the two sleeps that are everybody's.
    assert len(ring.of_type(RingType.EXEC)) == 3
    assert len(ring.of_type(RingType.FORK)) == 3


def test_the_collector_ends_with_its_connection_and_keeps_what_it_has(place: Path) -> None:
    capture = new_capture(place)
    with service(place) as path:
        collector, answer = opened(path, capture)
        assert answer["event"] == "ready"
        target = Target("import os\nfor _ in range(1000): os.getppid()")
        assert (collector.ask(f"enroll {target.pid}", 10) or {})["event"] == "ok"
        target.run()

        collector._socket.shutdown(socket.SHUT_WR)
        books = collector.read(30)

        assert books is not None and books["event"] == "stopped"
        deadline_s = time.monotonic() + 10
        while collector.is_alive and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert not collector.is_alive
    assert target.pid in ring_of(capture).of_type(RingType.EXIT).tid


def test_recordings_that_run_when_the_service_ends_are_finished_in_order(place: Path) -> None:
    capture = new_capture(place)
    with service(place) as path:
        collector, answer = opened(path, capture)
        assert answer["event"] == "ready"
        collector.ask(f"enroll {os.getpid()}", 10)

    books = collector.read(10)
    collector.close(10)

    assert books is not None and books["event"] == "stopped"


def test_there_is_a_limit_to_recordings_at_a_time(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with service(place) as path:
        silent = []
        for _ in range(collector_service.MAX_COLLECTORS):
            silent.append(socket.socket(socket.AF_UNIX))
            silent[-1].connect(str(path))

        answer = CollectorConnection(str(path), {"check": True}).read(10)

        for caller in silent:
            caller.close()
    assert answer is not None and answer["event"] == "error"
    assert "as many recordings as it allows" in answer["reason"]


def test_a_second_service_does_not_take_the_socket_away(place: Path) -> None:
    command = [sys.executable, "-m", "slmtrace", "collector", "--socket"]
    with service(place) as path:
        done = subprocess.run([*command, str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert path.exists()

    assert done.returncode == 2
    assert "a service answers" in done.stderr


def test_the_socket_of_a_service_that_was_killed_is_taken_over(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(place / "socket"))

    with service(place) as path:
        answer = CollectorConnection(str(path), {"check": True}).read(10)

    assert answer is not None and answer["event"] == "checked"


def test_killing_the_collector_leaves_the_target_unharmed_and_the_log_readable(place: Path) -> None:
    with service(place) as path:
        command = [sys.executable, "-m", "slmtrace", "record", "--collector-socket", str(path), "--probes", "ebpf"]
        # The kernel takes a second to take the programs of a killed collector away, and closes its connection then.
        command += ["-o", str(place / "out"), "--", "/bin/sh", "-c", "sleep 4; exit 7"]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as recorder:
            while not (place / "out" / "raw" / "ebpf.bin").exists() or not is_recording(place):
                time.sleep(0.05)
            time.sleep(0.4)
            for collector in collectors(path):
                os.kill(collector, signal.SIGKILL)
            assert recorder.stderr is not None
            recorder.stderr.read()

    assert recorder.returncode == 7
    source = Capture.open(place / "out").read_manifest()["sources"][0]
    assert (source["status"], source["reason"]) == (
        "partial",
        "the collector died during the recording (its connection ended)",
    )
    assert source["records"] > 0


def is_recording(place: Path) -> bool:
    return "target" in Capture.open(place / "out").read_manifest()


def collectors(path: Path) -> list[int]:
    """Return the collectors of the service at a socket: the children of the process that was told its path."""
    servers = [process for process in psutil.process_iter(["cmdline"]) if str(path) in (process.info["cmdline"] or [])]
    children = [child.as_dict(["pid", "cmdline"]) for server in servers for child in server.children()]
    # A child that has just ended has no command line any more.
    return [child["pid"] for child in children if "is_service" in " ".join(child["cmdline"] or [])]
