"""The collector as a process: what it does when things go wrong, when it attaches late, and on lesser kernels."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import FAULT_WRITE, FoldClass, RingType
from slmtrace.decode import ebpf
from slmtrace.decode.base import Context, Fragment
from slmtrace.decode.ring import read_ring
from slmtrace.model.events import EventKind
from slmtrace.model.tracks import TrackKind
from slmtrace.probes.base import RecordOptions, ebpf_source_dir
from slmtrace.probes.collector_process import CollectorProcess
from slmtrace.probes.ebpf import EbpfProbe, find_interpreter
from tests.support.logs import make_context, new_capture, only_log
from tests.support.targets import Target

pytestmark = [pytest.mark.root, pytest.mark.bpf]

N_PAGES = 2_003
N_MALLOCS = 5_003
TOUCH = f"""
import mmap
m = mmap.mmap(-1, {N_PAGES} * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m.madvise(mmap.MADV_NOHUGEPAGE)
for page in range({N_PAGES}): m[page * 4096] = 1
"""
MALLOC = f"""
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
for _ in range({N_MALLOCS}): libc.free(libc.malloc(100))
"""
# Two loops of half a second or so: pause; dec %edi; jne; ret, and the same without the pause.
LOOPS = """
import ctypes, mmap, time
def loop(code):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page[64:64 + len(code)] = code
    call = ctypes.CFUNCTYPE(None, ctypes.c_uint)(ctypes.addressof(ctypes.c_char.from_buffer(page, 64)))
    begin_ns, n = time.thread_time_ns(), 1 << 16
    while time.thread_time_ns() - begin_ns < 300_000_000: call(n)
    return time.thread_time_ns() - begin_ns
loop(bytes.fromhex("ffcf75fcc3"))
open({path!r}, "w").write(str(loop(bytes.fromhex("f390ffcf75fac3"))))
"""


def decode(capture: Capture) -> tuple[Fragment, Context]:
    context = make_context()
    return ebpf.decode(only_log(capture), context), context


def count_of(fragment: Fragment, kind: EventKind, *classes: FoldClass) -> int:
    """Count events, and those folded into these classes."""
    events = fragment.events
    folded = (events.kind == EventKind.FOLD) & np.isin(events.flags, classes)
    return int((events.kind == kind).sum()) + int(events.count[folded].sum())


def start_collector(capture: Capture, **changes: Any) -> CollectorProcess:
    return start_collector_with_answer(capture, **changes)[0]


def start_collector_with_answer(capture: Capture, **changes: Any) -> tuple[CollectorProcess, dict[str, Any]]:
    config = {
        "log": str(capture.raw / "ebpf.bin"),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "source_dir": str(ebpf_source_dir()),
        "ring_bytes": 1 << 20,
        "threshold_ns": 20_000,
        "malloc": "default",
        **changes,
    }
    collector = CollectorProcess((find_interpreter(),), config)
    answer = collector.read(60)
    assert answer is not None and answer["event"] == "ready", collector.error_text()
    return collector, answer


def test_killing_the_collector_leaves_the_target_unharmed_and_the_log_readable(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    probe = EbpfProbe()
    probe.start(capture, RecordOptions())
    target = Target(TOUCH + "\nimport time; time.sleep(0.6)")
    probe.enroll(target.pid)
    target.start()
    time.sleep(0.45)
    collector = probe._collector
    assert collector is not None

    os.kill(collector.pid, signal.SIGKILL)
    ended = target.wait()
    probe.poll()
    result = probe.stop()

    assert ended.status == 0
    assert result.status == "partial"
    assert "SIGKILL" in result.reason
    fragment, context = decode(capture)
    assert result.written == fragment.decoded
    assert count_of(fragment, EventKind.FAULT, FoldClass.ANON_FAULT) >= N_PAGES * 0.9
    assert context.tracks[context.tracks.find_thread(target.pid)].in_tree


def test_the_collector_finishes_in_order_when_the_recorder_dies(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    collector = start_collector(capture)
    target = Target(TOUCH)
    assert (collector.ask(f"enroll {target.pid}", 10) or {})["event"] == "ok"
    target.run()

    assert collector._process.stdin is not None
    collector._process.stdin.close()
    books = collector.read(30)

    assert books is not None and books["event"] == "stopped"
    assert collector._process.wait(10) == 0
    fragment, _ = decode(capture)
    assert fragment.decoded == books["written"] == books["seen"]


def test_what_was_compiled_before_is_loaded_without_bcc_and_records_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entries, were_kept, have_bcc, n_faults = [], [], [], []
    for number in range(3):
        if number == 2:
            entries[0].write_bytes(entries[0].read_bytes()[:-1])
        capture = new_capture(tmp_path / str(number))
        collector, answer = start_collector_with_answer(capture)
        target = Target(TOUCH)
        collector.ask(f"enroll {target.pid}", 10)
        have_bcc.append("libbcc" in Path(f"/proc/{collector.pid}/maps").read_text())
        target.run()
        collector.ask("stop", 30)
        collector.close(10)
        were_kept.append(answer["is_kept"])
        entries = list((tmp_path / "cache" / "slmtrace" / "bpf").iterdir())
        n_faults.append(count_of(decode(capture)[0], EventKind.FAULT, FoldClass.ANON_FAULT))

    assert were_kept == [False, True, False]
    assert have_bcc == [False, False, False]
    assert len(entries) == 1
    assert min(n_faults) >= N_PAGES


def test_the_log_belongs_to_whoever_asked_for_it(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    collector = start_collector(capture, uid=12345, gid=54321)

    collector.ask("stop", 30)
    collector.close(10)

    status = (capture.raw / "ebpf.bin").stat()
    assert (status.st_uid, status.st_gid) == (12345, 54321)
    assert stat.S_IMODE(status.st_mode) == 0o600


def test_a_running_process_is_attached_to_with_its_threads_and_children(tmp_path: Path) -> None:
    program = """
import os, threading, time
threads = [threading.Thread(target=time.sleep, args=(1.2,)) for _ in range(5)]
for thread in threads: thread.start()
if os.fork() == 0:
    time.sleep(1.2); os._exit(0)
os.wait()
for thread in threads: thread.join()
"""
    target = Target(program)
    capture = new_capture(tmp_path)
    collector = start_collector(capture)
    target.start()
    time.sleep(0.5)

    answer = collector.ask(f"enroll {target.pid}", 10)
    ended = target.wait()
    collector.ask("stop", 30)
    collector.close(10)

    assert ended.status == 0
    assert answer == {"event": "ok", "threads": 7}
    _, context = decode(capture)
    threads = [context.tracks[row] for row in context.tracks.rows(TrackKind.THREAD)]
    assert len(threads) == 7
    assert len({thread.pid for thread in threads}) == 2


def test_without_fault_tracepoints_faults_begin_at_the_software_event(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    collector = start_collector(capture, avoid=["page_fault_user"])
    target = Target(TOUCH)
    collector.ask(f"enroll {target.pid}", 10)

    ended = target.run()
    collector.ask("stop", 30)
    collector.close(10)

    fragment, _ = decode(capture)
    events = fragment.events
    faults = count_of(fragment, EventKind.FAULT, FoldClass.ANON_FAULT, FoldClass.FILE_FAULT)
    assert faults == pytest.approx(ended.n_faults, rel=0.02, abs=20)
    assert not (events.flags[events.kind == EventKind.FAULT] & FAULT_WRITE).any()


def test_without_block_io_start_requests_are_counted_once_however_often_issued(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 << 20))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    capture = new_capture(tmp_path)
    collector = start_collector(capture, avoid=["block_io_start"])

    os.read(descriptor, 8 << 20)
    collector.ask("stop", 30)
    collector.close(10)

    ring = read_ring(only_log(capture), make_context())
    if not len(ring.of_type(RingType.BLOCK_START)):
        pytest.skip("the file lies on no block device")
    fragment, context = decode(capture)
    events = fragment.events
    is_read = (events.kind == EventKind.BLOCK_IO) & (events.name == context.strings.intern("read"))
    assert int(events.size_bytes[is_read].sum()) == pytest.approx(8 << 20, rel=0.1)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="spin loops are recognised by an instruction of x86-64")
def test_only_the_loop_with_a_pause_is_a_spin(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    probe = EbpfProbe()
    probe.start(capture, RecordOptions())
    target = Target(LOOPS.format(path=str(tmp_path / "spun")))
    probe.enroll(target.pid)

    ended = target.run()
    probe.stop()

    assert ended.status == 0
    fragment, _ = decode(capture)
    spins = fragment.events.take(fragment.events.kind == EventKind.SPIN)
    spun_ns = int((tmp_path / "spun").read_text())
    assert int((spins.end_ns - spins.start_ns).sum()) == pytest.approx(spun_ns, rel=0.1)


def test_malloc_full_counts_the_calls_of_the_allocator(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    probe = EbpfProbe()
    probe.start(capture, RecordOptions(malloc="full"))
    target = Target(MALLOC)
    probe.enroll(target.pid)

    ended = target.run()
    result = probe.stop()

    assert ended.status == 0
    fragment, _ = decode(capture)
    calls = count_of(fragment, EventKind.MALLOC, FoldClass.MALLOC)
    # The interpreter itself allocates some thousand times when it starts.
    assert 2 * N_MALLOCS <= calls <= 2 * N_MALLOCS + 40_000
    assert result.facts["malloc_cost"]
    assert result.facts["capabilities"][-1] == "CAP_SYS_ADMIN"
    folds = fragment.events.take(fragment.events.kind == EventKind.FOLD)
    mean_ns = folds.work_ns[folds.flags == FoldClass.MALLOC].sum() / calls
    assert mean_ns < 10_000, "a probe stands on an instruction that the kernel single-steps"


def test_a_full_ring_loses_records_and_says_how_many(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    collector = start_collector(capture, ring_bytes=4096, threshold_ns=0)
    target = Target("import os\nfor _ in range(20_000): os.getppid()")
    collector.ask(f"enroll {target.pid}", 10)

    target.run()
    books = collector.ask("stop", 30)
    collector.close(10)

    assert books is not None
    assert books["lost"]["ring_full"] > 10_000
    assert books["seen"] == books["written"] + books["lost"]["ring_full"]
    log = only_log(capture)
    fragment, _ = decode(capture)
    assert fragment.decoded == books["written"]
    assert sum(loss.count for loss in fragment.losses) == log.header["lost"] == books["lost"]["ring_full"]


def test_the_reason_names_the_refusal_where_bpf_is_forbidden() -> None:
    if not shutil.which("setpriv"):
        pytest.skip("setpriv (util-linux) is not installed")
    root = Path(__file__).resolve().parents[2]
    bootstrap = f"import sys; sys.path.append({str(root)!r}); from slmtrace.probes.collector.diagnosis import check; "
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", find_interpreter(), "-I", "-c"]

    said = subprocess.run(
        [*command, bootstrap + "print(check()['reason'])"], capture_output=True, text=True, check=False
    )

    assert "loading BPF programs is refused: EPERM" in said.stdout, said.stderr


def make_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("answers", [True, False])
def test_sudo_runs_the_collector_alone_and_only_if_it_asks_no_password(
    answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("setpriv (util-linux) is not installed")
    # Without our sudo, this interpreter gives its privileges up.
    make_program(
        tmp_path / "python",
        f'test "$PROMOTED" || demote="setpriv --reuid 65534 --clear-groups"; exec $demote {find_interpreter()} "$@"',
    )
    grant = "PROMOTED=1 exec" if answers else "exit 1;"
    make_program(tmp_path / "sudo", f'test "$1" = -n || exit 99; shift; {grant} "$@"')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("slmtrace.probes.ebpf.find_interpreter", lambda: str(tmp_path / "python"))
    monkeypatch.setattr("slmtrace.probes.ebpf._owner", lambda: (12345, 54321))
    probe = EbpfProbe()

    availability = probe.check()

    assert availability.is_available == answers
    if not answers:
        assert availability.reason == "loading BPF programs needs privileges"
        return
    capture = new_capture(tmp_path)
    probe.start(capture, RecordOptions())
    assert probe.stop().status == "ok"
    status = (capture.raw / "ebpf.bin").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 54321, 0o600)


def test_bpf_and_perfmon_are_enough_to_record_the_tree(tmp_path: Path) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("setpriv (util-linux) is not installed")
    command = ["setpriv", "--bounding-set=-all,+bpf,+perfmon", "--inh-caps=-all", sys.executable, "-m", "slmtrace"]
    options = ["record", "--probes", "ebpf", "--require", "ebpf", "-o", str(tmp_path / "out"), "--", "/bin/true"]

    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    facts = Capture.open(tmp_path / "out").read_manifest()["sources"][0]["facts"]
    # The other two groups need a tracefs that is mounted and readable, or CAP_SYS_ADMIN to mount one.
    assert {name for name, status in facts["groups"].items() if status == "ok"} >= {
        *("tree", "sched", "faults", "syscalls", "block")
    }
    assert facts["capabilities"] == ["CAP_PERFMON", "CAP_BPF"]


def test_nothing_stays_behind(tmp_path: Path) -> None:
    mounts = Path("/proc/mounts").read_text()
    capture = new_capture(tmp_path)
    probe = EbpfProbe()
    probe.start(capture, RecordOptions())
    assert probe._collector is not None
    pid = probe._collector.pid

    probe.stop()
    probe._collector.close(10)

    assert not Path(f"/proc/{pid}").exists()
    assert Path("/proc/mounts").read_text() == mounts
    assert "bcc" not in sys.modules  # the recorder itself never imports it


def test_the_recorder_does_not_end_before_its_collector(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from slmtrace.probes.base import RecordOptions
from slmtrace.probes.ebpf import EbpfProbe
from tests.support.logs import new_capture
probe = EbpfProbe()
probe.start(new_capture(Path({str(tmp_path)!r})), RecordOptions())
probe.stop()
print(probe._collector.pid)
"""
    root = Path(__file__).resolve().parents[2]

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root)

    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_nothing_is_recorded_or_counted_once_the_books_are_closed(tmp_path: Path) -> None:
    capture = new_capture(tmp_path)
    collector = start_collector(capture, threshold_ns=0)
    target = Target("import os, time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: os.getppid()")
    collector.ask(f"enroll {target.pid}", 10)
    target.start()
    time.sleep(0.3)

    books = collector.ask("stop", 30)
    collector.close(10)
    target.wait()

    assert books is not None
    assert books["seen"] == books["written"] + sum(books["lost"].values()) > 10_000
    assert decode(capture)[0].decoded == books["written"]
