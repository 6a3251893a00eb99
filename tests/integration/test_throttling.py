"""A program whose cgroup may use a part of a CPU: the rest of its time is the quota's."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from slmtrace.analysis import load
from slmtrace.attribute.attribution import attribute
from slmtrace.attribute.throttling import THROTTLED_COUNTER
from slmtrace.capture.directory import Capture
from slmtrace.model.taxonomy import Cause
from slmtrace.model.windows import find_windows

pytestmark = [pytest.mark.root, pytest.mark.bpf]

SPIN_S = 1.5
SPIN = f"import time\nend = time.monotonic() + {SPIN_S}\nwhile time.monotonic() < end: pass"
PERIOD_US = 100_000
# On a busy machine a program may not get as much as its quota: then it has to be smaller.
QUOTAS = (0.4, 0.25, 0.15)
CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a cgroup for the controller of CPU time, of version 1 or 2."""
    path = (CGROUPS / "cpu" if (CGROUPS / "cpu" / "tasks").exists() else CGROUPS) / "slmtrace-test"
    try:
        path.mkdir(exist_ok=True)
        set_quota(path, 1.0)
    except OSError as error:
        pytest.skip(f"no cgroup with a CPU quota can be made here: {error}")
    yield path
    for _ in range(50):  # until its last process is reaped
        try:
            path.rmdir()
            return
        except OSError:
            time.sleep(0.1)


def set_quota(group: Path, share: float) -> None:
    quota_us = int(share * PERIOD_US)
    if (group / "cpu.cfs_quota_us").exists():
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
    else:
        (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")


def record(group: Path, path: Path) -> tuple[int, int]:
    """Record a program that spins; return for how long it was throttled, and by how much the cgroup's account grew."""
    join = f'echo $$ > {group / "cgroup.procs"} && exec "$@"'
    command = [sys.executable, "-m", "slmtrace", "record", "--probes", "ebpf,proc,ranges", "-o", str(path), "--"]
    command = ["sh", "-c", join, "sh", *command, sys.executable, "-c", SPIN]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trace = load(Capture.open(path))
    report = attribute(trace, find_windows(trace))[0]
    throttled_ns = sum(share.ns for share in report.causes if share.cause is Cause.CPU_THROTTLED)
    totals_us = next(series.value for series in trace.counters if series.name == THROTTLED_COUNTER)
    return throttled_ns, int(totals_us[-1] - totals_us[0]) * 1_000


def test_a_spinning_program_was_throttled_for_as_long_as_its_cgroup(group: Path, tmp_path: Path) -> None:
    for quota in QUOTAS:
        set_quota(group, quota)
        throttled_ns, account_ns = record(group, tmp_path / str(quota))
        if account_ns > 0.2 * SPIN_S * 1e9:
            break
    else:
        pytest.skip("this machine is too busy for any quota to be used up")

    # The account sums over CPUs, and the recorder is in the cgroup too.
    assert 0.3 * account_ns < throttled_ns < 1.2 * account_ns
