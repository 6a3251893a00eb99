"""Ranges: what Python code was doing, told by the instrument that the environment loads into the target."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from ..capture.directory import Capture
from ..capture.layout import HEADER_BYTES, SLOT
from ..capture.rawlog import RawLogError, read_header
from ..instrument import environment
from .base import Availability, Probe, ProbeResult, RecordOptions

_SELFTEST = "from _slmtrace.instrument import selftest; selftest.main()"
_SELFTEST_TIMEOUT_S = 30
_RECORD_BYTES = SLOT.record_bytes()
# Kinds are small: of the two little-endian bytes of `kind`, the last field, the first is 0 in an empty slot only.
_KIND_OFFSET = _RECORD_BYTES - 2


class RangesProbe(Probe):
    """Injects the instrument by environment variables, and accounts for the logs that it leaves."""

    name = "ranges"

    def __init__(self) -> None:
        self._raw: Path | None = None
        self._cost_ns = 0  # of one record, measured by check()

    def check(self) -> Availability:
        """Run this interpreter with the instrument in it; the target's own may differ."""
        try:
            with tempfile.TemporaryDirectory(prefix="slmtrace-") as raw:
                output = _run_selftest(raw)
                if not _logs(Path(raw)):
                    raise OSError(f"{sys.executable} started without the instrument")
            plain_ns, accounted_ns = (int(word) for word in output.split())
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return Availability(
                "unavailable",
                f"the instrument does not load: {_first_line(error)}",
                f"run it to see why: {environment.DEBUG}=1 {environment.RAW}=/tmp "
                f'PYTHONPATH={environment.site_dir()} {sys.executable} -c "{_SELFTEST}"',
            )
        self._cost_ns = plain_ns
        return Availability("ok", detail={"ns_per_range": plain_ns, "ns_per_range_with_accounting": accounted_ns})

    def start(self, capture: Capture, options: RecordOptions) -> None:
        """Remember where the logs go; the targets make them."""
        self._raw = capture.raw

    def environ(self, environ: dict[str, str]) -> dict[str, str]:
        """Return the variables that load the instrument into every Python of the target's tree."""
        return environment.injected(environ, str(self._raw)) if self._raw is not None else {}

    def stop(self) -> ProbeResult:
        """Count what was recorded and lost, and cut the unused ends of the logs."""
        if self._raw is None:
            return ProbeResult("unavailable", "not started")
        written = lost = 0
        logs = _logs(self._raw)
        for path in logs:
            try:
                header = read_header(path)
                used_slots, used_bytes = _count_slots(path)
                written += used_slots
                lost += header["lost"]
                if not _is_mapped(int(header["pid"]), path):
                    os.truncate(path, used_bytes)
            except (OSError, RawLogError, ValueError, KeyError):
                # The decoder lists a log that cannot be read; here it has nothing to count.
                continue
        if not logs:
            reason = "no process of the target loaded the instrument: no Python, or one started with -S, -E or -I"
            return ProbeResult("partial", reason)
        overhead = {
            "records": written,
            "ns_per_record": self._cost_ns,
            "ns": written * self._cost_ns,
            "method": "records x the cost of a wrapped call that does nothing, measured before the run",
        }
        return ProbeResult(
            "partial" if lost else "ok",
            "the log of a process was full, or could not grow" if lost else "",
            seen=written + lost,
            written=written,
            lost={"log_full": lost} if lost else {},
            overhead=overhead,
            facts={"processes": len(logs)},
        )


def _run_selftest(raw: str) -> str:
    environ = {**os.environ, **environment.injected(dict(os.environ), raw), environment.DEBUG: "1"}
    completed = subprocess.run(
        [sys.executable, "-c", _SELFTEST],
        env=environ,
        capture_output=True,
        text=True,
        timeout=_SELFTEST_TIMEOUT_S,
        check=False,
    )
    if completed.returncode:
        raise ValueError((completed.stderr.strip() or f"exit code {completed.returncode}").splitlines()[-1])
    return completed.stdout


def _logs(raw: Path) -> list[Path]:
    return sorted(path for path in raw.glob("ranges.*.bin") if path.is_file() and not path.is_symlink())


def _count_slots(path: Path) -> tuple[int, int]:
    """Return how many slots of a log are filled, and the size of the file up to the last of them."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size_bytes, prot=mmap.PROT_READ) as content:
        kinds = content[HEADER_BYTES + _KIND_OFFSET :: _RECORD_BYTES]
    n_slots = len(kinds.rstrip(b"\0"))
    return n_slots - kinds[:n_slots].count(0), HEADER_BYTES + n_slots * _RECORD_BYTES


def _is_mapped(pid: int, path: Path) -> bool:
    """Say whether the process that writes a log may still do so: cutting a file under its mapping would kill it."""
    try:
        return str(path) in Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return True


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
