"""The eBPF probe: starts the collector in a process of its own, tells it whom to follow, and keeps its books.

The collector alone is privileged, and it alone compiles with bcc, so it runs under whichever interpreter has bcc: as
our child, by sudo, or as a service's, where a socket is named.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..capture.directory import Capture
from ..capture.layout import HEADER_BYTES, RING
from ..capture.rawlog import create
from ..errors import SlmtraceError
from .base import COLLECTOR_SOCKET, Availability, Probe, ProbeResult, RecordOptions, ebpf_source_dir
from .collector_client import CollectorClient
from .collector_connection import CollectorConnection
from .collector_process import CollectorProcess

START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 30.0
LOG_NAME = "ebpf.bin"

_NO_BCC = "no Python interpreter here has bcc"
# Found and not imported: loading the compiler takes longer than all else.
_HAS_BCC = (
    "import sys; from importlib.util import find_spec; sys.exit(find_spec('bcc') is None or sys.version_info < (3, 9))"
)
# Where it would ask for a password, it fails at once instead.
_SUDO = ("sudo", "-n")
_CHECK = {"check": True}
_NO_BCC_REMEDY = "apt-get install python3-bpfcc (Debian, Ubuntu) or dnf install python3-bcc (Fedora, RHEL)"
_MALLOC_COST = "uprobes on every allocator call cost about 1.3 us each: expect the program to run slower by a third"
_METHOD = (
    "ns a run of each BPF program, timed by the kernel (BPF_ENABLE_STATS) for the target's first second; "
    "CPU time of the collector once started"
)
_LIBRARY_DIRECTORIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib")
_ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")


class EbpfProbe(Probe):
    """Kernel evidence about the target's process tree, and about the devices and memory of the machine."""

    name = "ebpf"

    def __init__(self) -> None:
        self._collector: CollectorClient | None = None
        self._socket = named_socket()
        self._sudo: tuple[str, ...] = ()
        self._log = Path()
        self._groups: dict[str, dict[str, Any]] = {}
        self._capabilities: list[str] = []
        self._is_kept = False
        self._is_malloc_traced = False
        self._death = ""

    def check(self) -> Availability:
        """Load and attach a program of two instructions, where a recording would."""
        try:
            answer, complaint = self._ask_check()
        except SlmtraceError as error:
            return Availability("unavailable", str(error), error.hint)
        if answer.get("event") != "checked":
            reason = f"the collector does not start: {answer.get('reason') or complaint or 'no answer'}"
            return Availability("unavailable", reason, "run it again; if it persists, report it with this text")
        return Availability(answer["status"], answer["reason"], answer["remedy"], answer["detail"])

    def start(self, capture: Capture, options: RecordOptions) -> None:
        """Start the collector and wait until everything is attached.

        Raises:
            SlmtraceError: it could not begin.
        """
        self._log = capture.raw / LOG_NAME
        self._is_malloc_traced = options.malloc == "full"
        request = {
            "ring_bytes": options.ring_bytes,
            "threshold_ns": options.threshold_ns,
            "malloc": options.malloc,
            "http": options.http,
        }
        self._collector = self._ask_service(request) if self._socket else self._run_collector(request, options)
        answer = self._collector.read(START_TIMEOUT_S)
        if answer is None or answer.get("event") != "ready":
            self._collector.close(0)
            self._log.unlink(missing_ok=True)
            answer = answer or {}
            reason = answer.get("reason") or f"the eBPF collector did not start: {self._collector.error_text()}"
            raise SlmtraceError(reason, hint=answer.get("remedy", ""))
        self._groups = answer["groups"]
        self._capabilities = answer["capabilities"]
        self._is_kept = answer["is_kept"]

    def environ(self, environ: dict[str, str]) -> dict[str, str]:
        """Change nothing; learn which allocator will be preloaded."""
        if self._is_malloc_traced:
            for path in preloaded_allocators(environ):
                self._command(f"allocator {path}")
        return {}

    def enroll(self, pid: int) -> None:
        """Follow a process, with its threads and all its descendants, from now on."""
        self._command(f"enroll {pid}")

    def poll(self) -> None:
        """Notice when the collector has died."""
        if self._collector and not self._death and not self._collector.is_alive:
            self._death = f"the collector died during the recording ({self._collector.describe_exit()})"

    def stop(self) -> ProbeResult:
        """Let the collector drain and finish its log."""
        if self._collector is None:
            return ProbeResult("unavailable", "it was never started")
        self.poll()
        books = None if self._death else self._collector.ask("stop", STOP_TIMEOUT_S)
        if books is None or books.get("event") != "stopped":
            self._collector.close(ANSWER_TIMEOUT_S)
            reason = self._death or f"the collector ended without its books ({self._collector.describe_exit()})"
            n_records = _count_records(self._log)
            return ProbeResult("partial", reason, n_records, n_records, facts=self._facts())
        # Its programs are silent, and to take them away takes it a while.
        self._collector.leave()
        return self._result(books)

    def _ask_check(self) -> tuple[dict[str, Any], str]:
        """Return a collector's answer, empty if there is none, and what it wrote to stderr; note whether sudo helps."""
        if self._socket:
            return _first_answer(CollectorConnection(self._socket, _CHECK))
        interpreter = (require_interpreter(),)
        answer, complaint = _first_answer(CollectorProcess(interpreter, _CHECK))
        if answer.get("is_for_root") and shutil.which(_SUDO[0]):
            by_sudo, _ = _first_answer(CollectorProcess((*_SUDO, *interpreter), _CHECK))
            if by_sudo.get("status", "unavailable") != "unavailable":
                self._sudo, answer = _SUDO, by_sudo
        return answer, complaint

    def _run_collector(self, request: dict[str, Any], options: RecordOptions) -> CollectorClient:
        uid, gid = _owner()
        config = {
            **request,
            "log": str(self._log),
            "uid": uid,
            "gid": gid,
            "source_dir": str(ebpf_source_dir()),
            "cuda_libraries": options.cuda_libraries,
        }
        return CollectorProcess((*self._sudo, require_interpreter()), config)

    def _ask_service(self, request: dict[str, Any]) -> CollectorClient:
        log = create(self._log, b"")
        try:
            return CollectorConnection(self._socket, request, log)
        finally:
            os.close(log)

    def _command(self, line: str) -> None:
        if self._collector is None or self._death:
            return
        answer = self._collector.ask(line, ANSWER_TIMEOUT_S)
        self.poll()
        if not self._death and (answer is None or answer.get("event") != "ok"):
            reason = (answer or {}).get("reason", "no answer")
            self._death = f"the collector did not obey {line!r}: {reason}"

    def _result(self, books: dict[str, Any]) -> ProbeResult:
        troubles = [f"{name}: {group['reason']}" for name, group in self._groups.items() if group["status"] != "ok"]
        troubles += [text for text in books["allocators"].values() if text]
        overhead = {
            "ns_per_run": books["ns_per_run"],
            "collector_cpu_ns": books["cpu_ns"],
            "collector_start_cpu_ns": books["start_cpu_ns"],
            "method": _METHOD,
        }
        kept = ("bpf_missed_runs", "ring_peak_fraction", "unnamed_files")
        return ProbeResult(
            "partial" if troubles else "ok",
            "; ".join(troubles),
            books["seen"],
            books["written"],
            books["lost"],
            overhead,
            {**self._facts(), **{name: books[name] for name in kept}},
        )

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "tier": "tracepoints and perf software events",
            "groups": {name: group["status"] for name, group in self._groups.items()},
            "capabilities": self._capabilities,
            "compiled": "before" if self._is_kept else "now",
        }
        return {**facts, "malloc_cost": _MALLOC_COST} if self._is_malloc_traced else facts


def named_socket() -> str:
    """Return the socket of the service to ask for a collector, or ''; it probes no libraries, which others use too."""
    return os.environ.get(COLLECTOR_SOCKET, "")


def _first_answer(collector: CollectorClient) -> tuple[dict[str, Any], str]:
    try:
        answer = collector.read(START_TIMEOUT_S)
    finally:
        collector.close(ANSWER_TIMEOUT_S)
    return answer or {}, collector.error_text()


@lru_cache(maxsize=1)
def find_interpreter() -> str:
    """Return a Python interpreter that has bcc, or ''."""
    # The distribution's own first, for its package manager has bcc.
    candidates = ["/usr/bin/python3", sys.executable, shutil.which("python3") or ""]
    for candidate in dict.fromkeys(filter(None, candidates)):
        command = [candidate, "-I", "-B", "-c", _HAS_BCC]
        try:
            tried = subprocess.run(command, capture_output=True, timeout=START_TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if tried.returncode == 0:
            return candidate
    return ""


def require_interpreter() -> str:
    """Return a Python interpreter that has bcc.

    Raises:
        SlmtraceError: there is none.
    """
    interpreter = find_interpreter()
    if not interpreter:
        raise SlmtraceError(_NO_BCC, hint=_NO_BCC_REMEDY)
    return interpreter


def preloaded_allocators(environ: dict[str, str]) -> list[str]:
    """Return the paths of the allocators that LD_PRELOAD names."""
    names = environ.get("LD_PRELOAD", "").replace(":", " ").split()
    return [path for name in names if any(word in name for word in _ALLOCATORS) for path in _locate(name)]


def _locate(library: str) -> list[str]:
    if "/" in library:
        return [library] if Path(library).is_file() else []
    found = (path for directory in _LIBRARY_DIRECTORIES for path in Path(directory).glob(f"**/{library}"))
    return [str(path) for path in [next(found, None)] if path]


def _owner() -> tuple[int, int]:
    """Return who asked for the recording, through sudo too."""
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        return int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "0"))
    return os.getuid(), os.getgid()


def _count_records(log: Path) -> int:
    try:
        return max(0, log.stat().st_size - HEADER_BYTES) // RING.record_bytes()
    except OSError:
        return 0
