"""The collector's counts against independent accounts: getrusage, schedstat, diskstats, and known workloads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import FAULT_HUGE, SWITCH_PREV_IN_TREE, FoldClass, RingType
from slmtrace.decode import ebpf
from slmtrace.decode.base import Context, Fragment
from slmtrace.decode.ring import Ring, high_half, read_ring
from slmtrace.model.events import EventKind, Events
from slmtrace.model.quality import Issue
from slmtrace.model.sched import Out, Sched
from slmtrace.model.tracks import TrackKind
from slmtrace.probes.base import ProbeResult, RecordOptions
from slmtrace.probes.ebpf import EbpfProbe
from tests.support.logs import make_context, only_log
from tests.support.targets import Ended, Target

pytestmark = [pytest.mark.root, pytest.mark.bpf]

N_PAGES = 10_007
N_GETPPID = 50_021
N_SLEEPS = 211
N_ROUNDS = 1_009
FILE_BYTES = 37 * 1_000_003  # not a whole number of pages
PAGE_BYTES = 4096
TOLERANCE = 0.02
SLACK_NS = 1_000_000
SWITCH_NS = 25_000  # between the scheduler's look at its clock and the tracepoint, out of an idle CPU
WAKE_NS = 50_000  # an interrupt to an idle virtual CPU

TOUCH = f"""
import mmap
m = mmap.mmap(-1, {N_PAGES} * {PAGE_BYTES}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_NOHUGEPAGE)
for page in range({N_PAGES}):
    m[page * {PAGE_BYTES}] = 1
"""
CALLS = f"import os\nfor _ in range({N_GETPPID}): os.getppid()"
SLEEPS = f"import time\nfor _ in range({N_SLEEPS}): time.sleep(0.001)"
PING_PONG = f"""
import os, threading
there, back = os.pipe(), os.pipe()
def answer():
    for _ in range({N_ROUNDS}): os.read(there[0], 1); os.write(back[1], b'.')
thread = threading.Thread(target=answer); thread.start()
for _ in range({N_ROUNDS}): os.write(there[1], b'.'); os.read(back[0], 1)
thread.join()
"""
COMPETE = """
import os, time
os.sched_setaffinity(0, {0})
rival = os.fork()
end = time.monotonic() + 0.5
while time.monotonic() < end: sum(range(1000))
if rival == 0: os._exit(0)
os.waitpid(rival, 0)
"""
READ = """
import sys
file = open(sys.argv[1], 'rb', buffering=0)
buffer = bytearray(1 << 20)
while file.readinto(buffer): pass
"""
MAP = """
import mmap, sys
file = open(sys.argv[1], 'rb')
m = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
sum(m[i] for i in range(0, len(m), 4096))
"""
HUGE = """
import mmap
m = mmap.mmap(-1, 32 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_HUGEPAGE)
for at in range(0, 32 << 20, 4096): m[at] = 1
"""


@dataclass(frozen=True)
class Recorded:
    """One recording of all workloads, decoded, with what the kernel says about each of them."""

    ended: dict[str, Ended]
    ring: Ring
    fragment: Fragment
    context: Context
    result: ProbeResult
    n_reads: int  # reads that the device completed between those times, by diskstats
    reads_from_ns: int
    reads_until_ns: int
    path: Path

    @property
    def events(self) -> Events:
        return self.fragment.events

    @property
    def sched(self) -> Sched:
        assert self.fragment.sched is not None
        return self.fragment.sched

    def tracks(self, name: str) -> list[int]:
        """Return the tracks of a workload's process."""
        tracks = self.context.tracks
        return [row for row in tracks.rows(TrackKind.THREAD) if tracks[row].pid == self.ended[name].pid]

    def of(self, name: str, kind: EventKind) -> Events:
        events = self.events
        return events.take(np.isin(events.track, self.tracks(name)) & (events.kind == kind))

    def folds(self, name: str, *classes: FoldClass) -> Events:
        folds = self.of(name, EventKind.FOLD)
        return folds.take(np.isin(folds.flags, classes))

    def names(self, ids: np.ndarray) -> list[str]:
        return [self.context.strings[number] for number in ids.tolist()]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    directory = tmp_path_factory.mktemp("ebpf")
    path = directory / "weights.bin"
    path.write_bytes(os.urandom(1 << 20) * (FILE_BYTES >> 20) + os.urandom(FILE_BYTES & 0xFFFFF))
    capture = Capture.create(directory / "capture")
    probe = EbpfProbe()
    probe.start(capture, RecordOptions())
    device = path.stat().st_dev
    before, reads_from_ns = _reads_completed(device), time.monotonic_ns()
    ended = {}
    programs = {"touch": TOUCH, "calls": CALLS, "sleeps": SLEEPS, "pingpong": PING_PONG, "compete": COMPETE}
    programs |= {"map": MAP, "read": READ, "warm": READ, "huge": HUGE}
    for name, program in programs.items():
        if name in ("read", "map"):
            _evict(path)
        target = Target(program, str(path))
        probe.enroll(target.pid)
        ended[name] = target.run()
        assert ended[name].status == 0, name
    time.sleep(0.1)
    n_reads, reads_until_ns = _reads_completed(device) - before, time.monotonic_ns()
    result = probe.stop()
    context = make_context()
    fragment = ebpf.decode(only_log(capture), context)
    ring = read_ring(only_log(capture), make_context())
    yield Recorded(ended, ring, fragment, context, result, n_reads, reads_from_ns, reads_until_ns, path)


def test_the_books_balance_and_nothing_is_lost(recorded: Recorded) -> None:
    result = recorded.result

    assert (result.status, result.reason) == ("ok", "")
    assert result.seen == result.written == recorded.fragment.decoded
    assert result.lost == {}
    # Some kernels leave out switches away from the idle task; those are rebuilt and said.
    assert set(recorded.context.quality.counts) <= {Issue.REBUILT_SWITCH}


@pytest.mark.parametrize("name", ["touch", "map", "huge", "pingpong"])
def test_faults_agree_with_getrusage(recorded: Recorded, name: str) -> None:
    faults = len(recorded.of(name, EventKind.FAULT))
    folded = int(recorded.folds(name, FoldClass.ANON_FAULT, FoldClass.FILE_FAULT).count.sum())

    # Pages that execve() itself fills for the new program are counted by the kernel, and are no faults.
    assert faults + folded == pytest.approx(recorded.ended[name].n_faults, rel=TOLERANCE, abs=20)


def test_fresh_pages_are_anonymous_faults(recorded: Recorded) -> None:
    folded = int(recorded.folds("touch", FoldClass.ANON_FAULT).count.sum())
    sent = recorded.of("touch", EventKind.FAULT)

    assert N_PAGES <= folded + int((sent.file == 0).sum()) <= N_PAGES * 1.2


def test_huge_page_faults_are_flagged(recorded: Recorded) -> None:
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("this kernel makes no huge pages")
    faults = recorded.of("huge", EventKind.FAULT)

    n_huge = int(((faults.flags & FAULT_HUGE) > 0).sum())

    # The mapping need not begin on a huge page's boundary.
    assert 15 <= n_huge <= 16


def test_short_system_calls_are_folded_and_counted(recorded: Recorded) -> None:
    folded = int(recorded.folds("calls", FoldClass.OTHER_SYSCALL).count.sum())
    sent = recorded.names(recorded.of("calls", EventKind.SYSCALL).name).count("getppid")

    assert folded + sent == pytest.approx(N_GETPPID, rel=TOLERANCE)
    assert folded + sent >= N_GETPPID


def test_each_sleep_is_a_system_call_of_its_own(recorded: Recorded) -> None:
    calls = recorded.of("sleeps", EventKind.SYSCALL)
    is_sleep = np.array([name == "clock_nanosleep" for name in recorded.names(calls.name)])

    assert int(is_sleep.sum()) == N_SLEEPS


def test_every_round_of_ping_pong_wakes_both_threads(recorded: Recorded) -> None:
    tracks = recorded.tracks("pingpong")
    sched = recorded.sched
    is_between = np.isin(sched.wake_track, tracks) & np.isin(sched.wake_by, tracks)

    assert len(tracks) == 2
    # A reader that comes after the writer finds the byte and need not be woken.
    assert N_ROUNDS <= int(is_between.sum()) <= 2 * N_ROUNDS + 20


@pytest.mark.parametrize("name", ["touch", "calls", "sleeps", "compete", "read"])
def test_time_on_the_cpu_agrees_with_the_scheduler(recorded: Recorded, name: str) -> None:
    sched, ended = recorded.sched, recorded.ended[name]
    mine = sched.run_track == recorded.context.tracks.find_thread(ended.pid)
    switches = recorded.ring.of_type(RingType.SWITCH)
    is_departure = (switches.tid == ended.pid) & ((switches.d & np.uint64(SWITCH_PREV_IN_TREE)) > 0)

    on_cpu_ns = int((sched.run_end_ns - sched.run_start_ns)[mine].sum())
    accounted_ns = int(high_half(switches.d[is_departure]).sum())

    # No stretch is missing, by the scheduler's own account of each.
    assert accounted_ns == pytest.approx(ended.cpu_ns, rel=0.001, abs=SLACK_NS)
    # The account leaves out what a virtual machine's host took meanwhile, which no clock in it shows.
    assert on_cpu_ns >= accounted_ns * (1 - TOLERANCE) - SLACK_NS - SWITCH_NS * int(mine.sum())
    assert on_cpu_ns <= accounted_ns * (1 + TOLERANCE) + SLACK_NS or ended.steal_ns > 0
    assert sched.run_out[mine][-1] == Out.EXIT


@pytest.mark.parametrize("name", ["calls", "compete", "sleeps"])
def test_run_queue_delay_agrees_with_the_scheduler(recorded: Recorded, name: str) -> None:
    ended = recorded.ended[name]
    track = recorded.context.tracks.find_thread(ended.pid)

    delay_ns = _run_delay_ns(recorded.sched, track)

    # Ours begins when the waker wakes; the kernel's when the woken CPU has taken note, an interrupt later.
    n_wakes = int((recorded.sched.wake_track == track).sum())
    slack_ns = SLACK_NS + ended.steal_ns + WAKE_NS * n_wakes
    assert delay_ns == pytest.approx(ended.run_delay_ns, rel=TOLERANCE, abs=slack_ns)


@pytest.mark.parametrize("name", ["read", "map"])
def test_cold_file_bytes_equal_the_file(recorded: Recorded, name: str) -> None:
    adds = recorded.folds(name, FoldClass.PAGE_CACHE_ADD)
    is_ours = np.array([path == str(recorded.path) for path in recorded.names(adds.file)])

    assert int(adds.size_bytes[is_ours].sum()) == pytest.approx(FILE_BYTES, rel=0.01)


def test_reads_return_the_bytes_of_the_file(recorded: Recorded) -> None:
    for name in ("read", "warm"):
        calls, folds = recorded.of(name, EventKind.SYSCALL), recorded.folds(name, FoldClass.READ)
        n_bytes = sum(
            int(
                events.size_bytes[
                    np.array([path == str(recorded.path) for path in recorded.names(events.file)], bool)
                ].sum()
            )
            for events in (calls, folds)
        )

        assert n_bytes == FILE_BYTES


def test_a_warm_read_adds_nothing_to_the_page_cache(recorded: Recorded) -> None:
    adds = recorded.folds("warm", FoldClass.PAGE_CACHE_ADD)
    is_ours = np.array([path == str(recorded.path) for path in recorded.names(adds.file)], bool)

    # A machine short of memory may have dropped a little of it since the cold read just before.
    assert int(adds.size_bytes[is_ours].sum()) <= FILE_BYTES * TOLERANCE


def test_mapped_file_faults_carry_the_file(recorded: Recorded) -> None:
    faults, folds = recorded.of("map", EventKind.FAULT), recorded.folds("map", FoldClass.FILE_FAULT)

    assert str(recorded.path) in recorded.names(faults.file) + recorded.names(folds.file)


def test_block_reads_agree_with_diskstats(recorded: Recorded) -> None:
    events, tracks = recorded.events, recorded.context.tracks
    device = recorded.path.stat().st_dev
    number = os.major(device) << 20 | os.minor(device)
    rows = [row for row in tracks.rows(TrackKind.BLOCK_DEVICE) if tracks[row].tid == number]
    if not rows:
        pytest.skip("the file lies on no block device")
    is_meanwhile = (events.end_ns > recorded.reads_from_ns) & (events.end_ns < recorded.reads_until_ns)
    mine = events.take(np.isin(events.track, rows) & is_meanwhile)

    n_reads = recorded.names(mine.name).count("read")

    # A read may complete between a look at diskstats and the look at the clock beside it.
    assert n_reads == pytest.approx(recorded.n_reads, rel=TOLERANCE, abs=3)


def test_folded_time_fits_into_its_stretch(recorded: Recorded) -> None:
    folds = recorded.events.take(recorded.events.kind == EventKind.FOLD)

    assert len(folds) > 100
    assert (folds.work_ns <= folds.end_ns - folds.start_ns).all()
    assert (folds.end_ns - folds.start_ns).max() <= 1_100_000


def test_the_collector_keeps_four_capabilities(recorded: Recorded) -> None:
    assert set(recorded.result.facts["capabilities"]) == {
        "CAP_BPF",
        "CAP_PERFMON",
        "CAP_SYS_PTRACE",
        "CAP_DAC_READ_SEARCH",
    }


def _evict(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def _reads_completed(device: int) -> int:
    for line in Path("/proc/diskstats").read_text().splitlines():
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
            return int(fields[3])
    return 0


def _run_delay_ns(sched: Sched, track: int) -> int:
    """Add up how long a thread was runnable and not running."""
    mine = sched.run_track == track
    starts, ends, outs = (column[mine].tolist() for column in (sched.run_start_ns, sched.run_end_ns, sched.run_out))
    wakes = sched.wake_ns[sched.wake_track == track]
    total = 0
    for left, out, came in zip(ends, outs, starts[1:], strict=False):
        if out == Out.PREEMPTED:
            total += came - left
            continue
        waits = wakes[(wakes >= left) & (wakes <= came)]
        total += came - int(waits[-1]) if len(waits) else 0
    # The first stretch begins with the wakeup that opened the gate.
    first = wakes[wakes <= starts[0]]
    return total + (starts[0] - int(first[-1]) if len(first) else 0)
