"""The collector's records to events and scheduler evidence, from logs made by hand."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from slmtrace.capture.layout import (
    FAULT_FILE,
    IRQ_TIMER,
    NAME_AT_ENROLL,
    NAME_OF_OUTSIDER,
    RING,
    SWITCH_IOWAIT,
    SWITCH_NEXT_IN_TREE,
    SWITCH_PREEMPTED,
    SWITCH_PREV_IN_TREE,
    SWITCH_REBUILT,
    TEXT_BYTES,
    FoldClass,
    LostCause,
    RingType,
)
from slmtrace.capture.rawlog import encode_header
from slmtrace.decode import ebpf
from slmtrace.decode.base import Context, Fragment
from slmtrace.decode.ring import low_half
from slmtrace.decode.switches import wake_contexts
from slmtrace.model.events import EventKind
from slmtrace.model.quality import Issue
from slmtrace.model.sched import Out, Sched, WakeContext
from slmtrace.model.tracks import NO_TRACK, TrackKind
from tests.support.logs import make_context, new_capture, only_log

T0 = 1_000_000_000
PID, TID, OTHER = 100, 101, 7
DEVICE, INODE = 254 << 20, 4711
COMM = struct.unpack("<2Q", b"python3".ljust(16, b"\0"))
EXIT_STATE, SLEEP_STATE, DISK_STATE = 0x80, 1, 2


class Log:
    """Records in the order in which they are written."""

    def __init__(self) -> None:
        self._records: list[bytes] = []

    def add(
        self, kind: int, at: int, tid: int = TID, a: int = 0, b: int = 0, c: int = 0, d: int = 0, cpu: int = 0
    ) -> Log:
        self._records.append(struct.pack(RING.pack_format(), 48, T0 + at, kind, cpu, tid, a, b, c, d))
        return self

    def enroll(self, at: int = 0, tid: int = TID) -> Log:
        return self.add(RingType.NAME, at, tid, PID, NAME_AT_ENROLL, *COMM)

    def arrive(self, at: int, tid: int = TID, flags: int = 0) -> Log:
        return self.add(RingType.SWITCH, at, 0, tid, flags, PID << 32, SWITCH_NEXT_IN_TREE, cpu=3)

    def leave(self, at: int, state: int, tid: int = TID) -> Log:
        return self.add(RingType.SWITCH, at, tid, 0, state, PID, SWITCH_PREV_IN_TREE, cpu=3)

    def alive(self, at: int) -> Log:
        return self.add(RingType.ALIVE, at, 0)

    def file(self, path: str) -> Log:
        return self.text(path).add(RingType.FILE, 0, 1, INODE, DEVICE, 9)

    def text(self, text: str) -> Log:
        data = text.encode()
        for start in range(0, len(data), TEXT_BYTES):
            chunk = data[start : start + TEXT_BYTES]
            words = struct.unpack("<5Q", chunk.ljust(TEXT_BYTES, b"\0"))
            self._records.append(
                struct.pack(RING.pack_format(), 48, words[0], RingType.TEXT, len(chunk), 1, *words[1:])
            )
        return self

    def raw(self, data: bytes) -> Log:
        self._records.append(data)
        return self

    def decode(self, tmp_path: Path) -> tuple[Fragment, Context]:
        capture = new_capture(tmp_path)
        header = encode_header("ebpf", RING, machine="x86_64")
        (capture.raw / "ebpf.bin").write_bytes(header + b"".join(self._records))
        context = make_context()
        return ebpf.decode(only_log(capture), context), context


def runs(sched: Sched | None) -> list[tuple[int, int, Out]]:
    assert sched is not None
    columns = zip(sched.run_start_ns.tolist(), sched.run_end_ns.tolist(), sched.run_out.tolist(), strict=True)
    return [(start - T0, end - T0, Out(out)) for start, end, out in columns]


def test_switches_become_stretches_with_the_reason_why_they_ended(tmp_path: Path) -> None:
    log = Log().enroll()
    log.arrive(10).leave(20, SLEEP_STATE).arrive(30).leave(40, SWITCH_PREEMPTED | SLEEP_STATE)
    log.arrive(50).leave(60, DISK_STATE | SWITCH_IOWAIT).arrive(70).leave(80, DISK_STATE)
    log.arrive(90).leave(95, EXIT_STATE).alive(100)

    fragment, context = log.decode(tmp_path)

    assert runs(fragment.sched) == [
        (10, 20, Out.SLEEP),
        (30, 40, Out.PREEMPTED),
        (50, 60, Out.IOWAIT),
        (70, 80, Out.DISK),
        (90, 95, Out.EXIT),
    ]
    assert context.quality.lines() == []


def test_the_last_stretch_ends_with_the_recording_or_with_its_thread(tmp_path: Path) -> None:
    log = Log().enroll().enroll(0, PID).arrive(10).arrive(20, PID).add(RingType.EXIT, 60, PID, PID).alive(100)

    fragment, _ = log.decode(tmp_path)

    assert sorted(runs(fragment.sched)) == [(10, 100, Out.OPEN), (20, 60, Out.EXIT)]


def test_a_thread_that_ran_when_enrolled_ran_since_then(tmp_path: Path) -> None:
    fragment, context = Log().enroll(5).leave(20, SLEEP_STATE).alive(30).decode(tmp_path)

    assert runs(fragment.sched) == [(5, 20, Out.SLEEP)]
    assert context.quality.lines() == []


def test_contradictory_switches_are_counted_and_left_out(tmp_path: Path) -> None:
    log = Log().enroll().arrive(10).arrive(20).leave(30, SLEEP_STATE).leave(40, SLEEP_STATE).alive(50)

    fragment, context = log.decode(tmp_path)

    assert runs(fragment.sched) == [(20, 30, Out.SLEEP)]
    assert context.quality.counts[Issue.LOST_SWITCH] == 2


def test_rebuilt_switches_are_said(tmp_path: Path) -> None:
    log = Log().enroll().arrive(10, flags=SWITCH_REBUILT).leave(20, SLEEP_STATE).alive(30)

    fragment, context = log.decode(tmp_path)

    assert runs(fragment.sched) == [(10, 20, Out.SLEEP)]
    assert context.quality.counts[Issue.REBUILT_SWITCH] == 1


def test_a_waker_outside_the_tree_is_no_track(tmp_path: Path) -> None:
    log = Log().enroll().enroll(0, PID).arrive(10)
    log.add(RingType.WAKING, 20, PID, TID, 0, PID, PID).add(RingType.WAKING, 30, OTHER, TID, IRQ_TIMER, PID, OTHER)

    fragment, context = log.alive(40).decode(tmp_path)

    assert fragment.sched is not None
    assert fragment.sched.wake_by.tolist() == [context.tracks.find_thread(PID), NO_TRACK]
    assert fragment.sched.wake_context.tolist() == [WakeContext.TASK, WakeContext.TIMER]


def test_an_interrupt_hides_what_it_interrupted() -> None:
    bits = np.array([0, 4, 5, 9, 1, 4 | IRQ_TIMER, 5 | 1 << 16], np.uint64)

    assert wake_contexts(bits).tolist() == [
        WakeContext.TASK,
        WakeContext.NET,
        WakeContext.BLOCK,
        WakeContext.TIMER,
        WakeContext.SOFTIRQ,
        WakeContext.TIMER,
        WakeContext.HARDIRQ,
    ]


def test_forks_name_parent_and_process(tmp_path: Path) -> None:
    log = Log().enroll().arrive(1).add(RingType.FORK, 10, TID, 200, 200, PID).alive(20)

    fragment, context = log.decode(tmp_path)

    assert fragment.sched is not None
    assert fragment.sched.fork_track.tolist() == [context.tracks.find_thread(200)]
    assert fragment.sched.fork_by.tolist() == [context.tracks.find_thread(TID)]
    assert context.tracks[context.tracks.find_thread(200)].pid == 200


def test_a_process_that_was_killed_has_a_mark_and_its_threads_have_none(tmp_path: Path) -> None:
    log = Log().enroll().enroll(0, PID).enroll(0, OTHER)
    log.add(RingType.EXIT, 10, TID, PID, 9, *COMM).add(RingType.EXIT, 20, PID, PID, 9, *COMM)
    log.add(RingType.EXIT, 30, OTHER, OTHER, 1 << 8, *COMM).add(RingType.EXIT, 40, OTHER, OTHER, 15, *COMM)

    fragment, context = log.decode(tmp_path)

    marks = fragment.events.take(fragment.events.kind == EventKind.MARK)
    assert (marks.start_ns - T0).tolist() == [20]
    assert marks.track.tolist() == [context.tracks.find_thread(PID)]
    assert [context.strings[name] for name in marks.name.tolist()] == ["killed by SIGKILL"]


def test_a_thread_carries_its_last_name_and_its_process(tmp_path: Path) -> None:
    worker = struct.unpack("<2Q", b"worker\x1b[1m".ljust(16, b"\0"))
    log = Log().enroll().enroll(0, PID).add(RingType.EXIT, 10, TID, PID, 0, *worker)

    _, context = log.decode(tmp_path)

    track = context.tracks[context.tracks.find_thread(TID)]
    assert (track.name, track.process, track.pid, track.in_tree) == (
        "worker\N{REPLACEMENT CHARACTER}[1m",
        "python3",
        PID,
        True,
    )


def test_a_fault_carries_its_file_and_flags(tmp_path: Path) -> None:
    path = "/models/" + "x" * 60 + "/weights.safetensors"
    log = Log().enroll().file(path).add(RingType.FAULT, 10, TID, 0x7F00_0000_1000, 25, FAULT_FILE | DEVICE << 32, INODE)

    fragment, context = log.decode(tmp_path)

    events = fragment.events
    assert (events.start_ns[0], events.end_ns[0], events.detail[0]) == (T0 + 10, T0 + 35, 0x7F00_0000_1000)
    assert (context.strings[events.file[0]], events.flags[0]) == (path, FAULT_FILE)


def test_a_fold_keeps_count_bytes_and_own_time(tmp_path: Path) -> None:
    b = FoldClass.READ | 300 << 8 | 4096 << 32
    log = Log().enroll().add(RingType.FOLD, 10, TID, T0 + 900, b, 777 | DEVICE << 32, INODE)

    fragment, context = log.decode(tmp_path)

    events = fragment.events
    assert (events.kind[0], events.flags[0], events.count[0]) == (EventKind.FOLD, FoldClass.READ, 300)
    assert (events.size_bytes[0], events.work_ns[0], events.end_ns[0]) == (4096, 777, T0 + 900)
    assert context.strings[events.file[0]] == "inode 4711 on device 254:0"
    assert context.strings[events.name[0]] == "read"


def test_a_fold_of_nothing_names_the_file_of_a_long_read(tmp_path: Path) -> None:
    log = Log().enroll().file("/w").add(RingType.SYSCALL, 10, TID, 0, 50, 3, 4096)
    log.add(RingType.SYSCALL, 10, PID, 0, 50, 3, 1).add(RingType.SYSCALL, 90, TID, 0, 5, 3, 2**64 - 11)
    log.add(RingType.FOLD, 10, TID, T0 + 60, FoldClass.READ, DEVICE << 32, INODE)

    fragment, context = log.decode(tmp_path)

    events = fragment.events
    assert [context.strings[number] for number in events.file.tolist()] == ["/w", "", ""]
    assert events.size_bytes.tolist() == [4096, 1, 0]
    assert events.detail.tolist() == [4096, 1, -11]
    assert {context.strings[number] for number in events.name.tolist()} == {"read"}


def test_block_requests_pair_by_device_and_sector(tmp_path: Path) -> None:
    log = Log()
    log.add(RingType.BLOCK_START, 10, OTHER, 800, 4096, DEVICE, ord("R")).add(
        RingType.BLOCK_START, 11, OTHER, 800, 512, 5, ord("W")
    )
    log.add(RingType.BLOCK_DONE, 30, 0, 800, 0, DEVICE).add(RingType.BLOCK_DONE, 31, 0, 999, 0, DEVICE).alive(70)

    fragment, context = log.decode(tmp_path)

    events = fragment.events
    spans = zip(events.start_ns.tolist(), events.end_ns.tolist(), events.size_bytes.tolist(), strict=True)
    assert sorted((start - T0, end - T0, size) for start, end, size in spans) == [(10, 30, 4096), (11, 70, 512)]
    assert {context.tracks[row].kind for row in events.track.tolist()} == {TrackKind.BLOCK_DEVICE}
    assert context.quality.lines() == []


def test_a_merged_request_is_part_of_the_one_before_it(tmp_path: Path) -> None:
    log = Log()
    log.add(RingType.BLOCK_START, 10, OTHER, 800, 4096, DEVICE, ord("R"))
    log.add(RingType.BLOCK_START, 11, OTHER, 808, 8192, DEVICE, ord("R")).add(
        RingType.BLOCK_DONE, 12, OTHER, 808, 1, DEVICE
    )
    log.add(RingType.BLOCK_START, 13, OTHER, 824, 512, DEVICE, ord("R")).add(
        RingType.BLOCK_DONE, 14, OTHER, 824, 1, DEVICE
    )
    log.add(RingType.BLOCK_DONE, 30, 0, 800, 0, DEVICE)

    fragment, _ = log.decode(tmp_path)

    assert fragment.events.size_bytes.tolist() == [4096 + 8192 + 512]
    assert (fragment.events.end_ns - fragment.events.start_ns).tolist() == [20]


def test_a_request_that_another_was_merged_in_front_of_ends_at_another_sector(tmp_path: Path) -> None:
    log = Log()
    for number, at, sector in ((7, 10, 808), (9, 11, 4000)):
        log.add(RingType.BLOCK_START, at, OTHER, sector, 4096, DEVICE | number << 32, ord("R"))
    log.add(RingType.BLOCK_DONE, 30, 0, 800, 0, DEVICE | 7 << 32)
    log.add(RingType.BLOCK_START, 40, OTHER, 808, 4096, DEVICE | 9 << 33, ord("R"))
    log.add(RingType.BLOCK_DONE, 50, 0, 4000, 0, DEVICE | 9 << 32)

    fragment, context = log.decode(tmp_path)

    ended = dict(zip((fragment.events.start_ns - T0).tolist(), (fragment.events.end_ns - T0).tolist(), strict=True))
    assert (ended[10], ended[11]) == (30, 50)
    assert context.quality.counts[Issue.UNPAIRED_BLOCK_IO] == 0


def test_two_starts_of_one_request_are_counted(tmp_path: Path) -> None:
    log = Log()
    for at in (10, 20):
        log.add(RingType.BLOCK_START, at, OTHER, 800, 4096, DEVICE, ord("R"))
    log.add(RingType.BLOCK_DONE, 30, 0, 800, 0, DEVICE)

    fragment, context = log.decode(tmp_path)

    assert (fragment.events.start_ns - T0).tolist() == [20]
    assert context.quality.counts[Issue.UNPAIRED_BLOCK_IO] == 1


def test_compaction_by_an_outsider_has_a_system_track(tmp_path: Path) -> None:
    comm = struct.unpack("<2Q", b"kcompactd0".ljust(16, b"\0"))
    log = Log().enroll().add(RingType.NAME, 5, OTHER, OTHER, NAME_OF_OUTSIDER, *comm)
    log.add(RingType.COMPACTION, 10, OTHER, 8, 100).add(RingType.COMPACTION, 20, TID, 8, 100)
    log.add(RingType.RECLAIM, 30, OTHER, 3, 50, 64).add(RingType.MIGRATE, 40, OTHER, 5, 2)

    fragment, context = log.decode(tmp_path)

    events = fragment.events
    kinds = [context.tracks[row].kind for row in events.track.tolist()]
    assert kinds == [TrackKind.SYSTEM, TrackKind.THREAD, TrackKind.SYSTEM, TrackKind.SYSTEM]
    assert context.tracks[int(events.track[0])].name == "kcompactd0"
    assert (events.detail[2], events.count[3], events.detail[3]) == (64, 5, 2)


def test_samples_in_a_spin_loop_make_stretches(tmp_path: Path) -> None:
    log = Log().enroll()
    for ts_ns in (1_000, 2_010, 2_990, 5_000):
        log.add(RingType.SPIN, ts_ns, TID, 1_000)
    log.add(RingType.SPIN, 3_900, OTHER, 1_000)

    fragment, context = log.decode(tmp_path)

    events = fragment.events
    found = zip((events.start_ns - T0).tolist(), (events.end_ns - T0).tolist(), events.count.tolist(), strict=True)
    assert set(found) == {(0, 2_990, 3), (4_000, 5_000, 1), (2_900, 3_900, 1)}
    assert {context.tracks[row].tid for row in events.track.tolist()} == {TID, OTHER}


def test_losses_carry_their_cause(tmp_path: Path) -> None:
    fragment, _ = Log().add(RingType.LOST, 10, 0, LostCause.RING_FULL, 17).decode(tmp_path)

    assert [(loss.cause, loss.count) for loss in fragment.losses] == [("ring_full", 17)]


def test_without_switches_there_is_no_scheduler_evidence(tmp_path: Path) -> None:
    fragment, _ = Log().enroll().alive(10).decode(tmp_path)

    assert fragment.sched is None
    assert fragment.decoded == 2


def test_an_empty_log_is_empty(tmp_path: Path) -> None:
    fragment, context = Log().decode(tmp_path)

    assert (len(fragment.events), fragment.decoded, len(context.tracks)) == (0, 0, 0)


def test_a_cut_log_loses_its_last_record_only(tmp_path: Path) -> None:
    fragment, context = Log().enroll().add(RingType.FAULT, 10, TID, 1, 5).raw(b"\x30\0\0\0").decode(tmp_path)

    assert len(fragment.events) == 1
    assert context.quality.counts[Issue.CUT_LOG] == 1


@pytest.mark.parametrize(("kind", "tid", "b", "issue"), [
    (99, TID, 0, Issue.UNKNOWN_KIND),
    (RingType.FAULT, 1 << 23, 0, Issue.DAMAGED_RECORD),
    (RingType.FAULT, TID, 2**63, Issue.IMPLAUSIBLE_TIME),
    (RingType.FOLD, TID, 200 | 1 << 8, Issue.UNKNOWN_KIND),
])  # fmt: skip
def test_records_that_cannot_be_are_counted_and_skipped(
    tmp_path: Path, kind: int, tid: int, b: int, issue: Issue
) -> None:
    fragment, context = Log().enroll().add(kind, 10, tid, 1, b).decode(tmp_path)

    assert len(fragment.events) == 0
    assert context.quality.counts[issue] == 1


@pytest.mark.parametrize("seed", range(20))
def test_garbage_never_crashes_the_decoder(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 2**64, (400, 7), np.uint64)
    words[:, 0] = 48
    words[:, 1] = T0 + rng.integers(0, 1000, 400)
    tids = rng.integers(0, 5 if seed % 2 else 1 << 22, 400).astype(np.uint64)
    words[:, 2] = rng.integers(0, 24, 400).astype(np.uint64) | tids << np.uint64(32)
    if seed % 3:
        words[:, 3:] &= np.uint64(0xFF)

    fragment, _ = Log().raw(words.tobytes()).decode(tmp_path)

    assert fragment.decoded == 400
    assert (fragment.events.end_ns >= fragment.events.start_ns).all()
    if fragment.sched is not None:
        assert (fragment.sched.run_end_ns >= fragment.sched.run_start_ns).all()


def test_halves_of_words_do_not_lose_bits() -> None:
    assert low_half(np.array([0xFFFFFFFF_FFFFFFFF], np.uint64)).tolist() == [0xFFFFFFFF]


FUTEX = 202
RUNTIME = 0x7F0000A00000
SIZE = 0x28B20


def futex_flags(log: Log, tmp_path: Path) -> list[int]:
    fragment, _ = log.decode(tmp_path)
    events = fragment.events
    return events.flags[events.kind == EventKind.SYSCALL].tolist()


@pytest.mark.parametrize(
    ("address", "is_gil"),
    [(RUNTIME, True), (RUNTIME + SIZE - 4, True), (RUNTIME + SIZE, False), (RUNTIME - 4, False), (0x55D0C0, False)],
)
def test_a_futex_in_the_runtime_state_is_the_interpreters_lock(address: int, is_gil: bool, tmp_path: Path) -> None:
    log = Log().enroll().add(RingType.PYTHON, 5, PID, RUNTIME, SIZE).add(RingType.SYSCALL, 10, TID, FUTEX, 50, address)

    assert futex_flags(log, tmp_path) == [int(is_gil)]


def test_a_forked_child_has_its_parents_lock_and_another_process_has_not(tmp_path: Path) -> None:
    child, stranger = 200, 300
    log = Log().enroll().add(RingType.PYTHON, 5, PID, RUNTIME, SIZE)
    log.add(RingType.FORK, 6, TID, child, child, PID).add(RingType.NAME, 7, stranger, stranger, NAME_AT_ENROLL, *COMM)
    for tid in (child, stranger):
        log.add(RingType.SYSCALL, 10 + tid, tid, FUTEX, 50, RUNTIME + 8)

    assert futex_flags(log, tmp_path) == [1, 0]


def test_other_calls_with_such_an_argument_are_not_about_the_lock(tmp_path: Path) -> None:
    log = Log().enroll().add(RingType.PYTHON, 5, PID, RUNTIME, SIZE).add(RingType.SYSCALL, 10, TID, 11, 50, RUNTIME)

    assert futex_flags(log, tmp_path) == [0]


def test_an_ioctl_names_the_gpu_device_that_it_is_for(tmp_path: Path) -> None:
    ioctl, write = 16, 1
    log = Log().enroll().text("/dev/nvidiactl").add(RingType.DESCRIPTOR, 0, 1, PID, 7)
    log.add(RingType.SYSCALL, 10, a=ioctl, b=5, c=7).add(RingType.SYSCALL, 20, a=ioctl, b=5, c=8)
    log.add(RingType.SYSCALL, 30, a=write, b=5, c=7)

    fragment, context = log.decode(tmp_path)

    calls = fragment.events.take(fragment.events.kind == EventKind.SYSCALL)
    assert [context.strings[file] for file in calls.file.tolist()] == ["/dev/nvidiactl", "", ""]
    assert [context.strings[name] for name in calls.name.tolist()] == ["ioctl", "ioctl", "write"]


def test_a_call_of_the_cuda_driver_has_its_function_s_short_name_and_its_caller(tmp_path: Path) -> None:
    log = Log().enroll().text("cuMemcpyDtoHAsync_v2_ptsz").add(RingType.FUNCTION, 0, 1, 7)
    log.add(RingType.UPROBE, 10, a=7, b=30).add(RingType.UPROBE, 50, a=8, b=5)

    fragment, context = log.decode(tmp_path)

    calls = fragment.events.take(fragment.events.kind == EventKind.CUDA_API)
    assert [context.strings[name] for name in calls.name.tolist()] == ["cuMemcpyDtoHAsync", "function 8"]
    assert (calls.start_ns - T0).tolist() == [10, 50]
    assert (calls.end_ns - T0).tolist() == [40, 55]
    assert {context.tracks[track].tid for track in calls.track.tolist()} == {TID}
