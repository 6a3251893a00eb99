"""Record layouts and record kinds of the raw logs.

Recorders (in the target, in the collector, in the malloc shim) and decoders share nothing but this file. It is standard
library only, because it is loaded into the target and into the interpreter that has bcc. Integers never change meaning.

A raw log is a 4096-byte header (one line of JSON, padded with NUL) followed by fixed-size records, little-endian. There
are two layouts: SLOT, for all that our own code writes, and RING, for what the kernel writes through the ring buffer.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

HEADER_BYTES = 4096
MAGIC = "slmtrace-raw/1"
# The last 64 bytes of the header are live counters that the writer updates in place: lost records, u64 at the first 8.
LOST_OFFSET = HEADER_BYTES - 64

TEXT_BYTES = 40


class Layout(NamedTuple):
    """A record format: its name, its version and its fields as (name, struct code)."""

    name: str
    version: int
    fields: tuple[tuple[str, str], ...]

    def pack_format(self) -> str:
        """Return the `struct` format of one record."""
        return "<" + "".join(code for _, code in self.fields)

    def record_bytes(self) -> int:
        """Return the size of one record in bytes."""
        return struct.calcsize(self.pack_format())

    def numpy_fields(self) -> list[tuple[str, str]]:
        """Return the fields as a numpy dtype specification."""
        return [(name, _NUMPY_CODES[code]) for name, code in self.fields]


_NUMPY_CODES = {"Q": "<u8", "q": "<i8", "I": "<u4", "H": "<u2"}

# Kind is the last field, so that a record torn by SIGKILL reads as EMPTY (x86 and arm64 store in program order to one
# line; the record is written by one memcpy-like pack). A TEXT record holds 40 bytes of UTF-8 in place of the fields
# before `id`, `used` says how many of them count, and consecutive TEXT records of one id concatenate.
SLOT = Layout(
    "slot",
    1,
    (
        ("start_ns", "Q"),
        ("end_ns", "Q"),
        ("a", "q"),
        ("b", "q"),
        ("tid", "I"),
        ("name", "I"),
        ("id", "I"),
        ("used", "H"),
        ("kind", "H"),
    ),
)


class SlotKind(enum.IntEnum):
    """What a SLOT record is, and what its fields mean.

    `name` and `id` are string ids (0: none) unless said otherwise.
    """

    EMPTY = 0
    TEXT = 1  # 40 bytes of text; id: the string's id; used: bytes that count
    RANGE = 2  # a call on a thread; name "stage|label"; id: request; a: size_bytes or count, b: file (string id)
    BEGIN = 3  # the start of a long range, for when its RANGE record never comes; end_ns 0
    MARK = 4  # an instant; name: MARK_*; id: request
    ASYNC = 5  # a stretch of a request that is not a call on a thread (coroutine); name, id as RANGE
    # a module's execution; name: module; a: on-CPU ns in compiling its source, 0 if it was not; used: nesting depth
    IMPORT = 6
    DLOPEN = 7  # an extension module's dlopen; name: module
    GENERATOR = 8  # a generator's life; a: items, b: ns inside the producer
    NOTE = 9  # name: topic (hook_miss, hook_error, process_title), id: text
    COUNTER = 10  # start_ns: time; name: counter; a: value
    # equal stack samples from start to end; name: stack, root first, joined by ';'; a: 1 if it held the GIL, b: pid
    SAMPLE = 11
    MALLOC = 12  # a slow allocator call; name: MALLOC_OPS index; a: size_bytes, b: pointer
    CLOCK = 13  # a bracketed clock read: start_ns and end_ns CLOCK_MONOTONIC around it; a: value; name: ClockId
    # A thread's accounting of a range whose RANGE record has the same tid, name, start_ns and end_ns; a: on-CPU ns,
    # b: minor faults | major faults << 32; id: 0
    RUSAGE = 14
    SYMBOL = 15  # what a number in a CUPTI record stands for: a: the number (capture/cupti.py), name: its text


# Marks that recorders write; windows are derived from them and from ranges (model/windows.py).
MARK_READY = "ready"
MARK_REQUEST_START = "request_start"
MARK_FIRST_TOKEN = "first_token"
MARK_REQUEST_END = "request_end"

# Labels of ranges that pass a message through shared memory; the segment is their `b`.
RANGE_SEND = "enqueue"
RANGE_RECEIVE = "dequeue"

# Label of the ASYNC stretch of an engine's step; a: the request's own tokens in it, b: all tokens.
STEP = "step"

MALLOC_OPS = ("malloc", "calloc", "realloc", "free", "posix_memalign", "aligned_alloc", "memalign")


class ClockId(enum.IntEnum):
    """Clocks of CLOCK records; CLOCK_MONOTONIC is the clock of everything else."""

    REALTIME = 1
    MONOTONIC = 3
    BOOTTIME = 6
    CUPTI = 64
    PYSPY = 65


# The first field is the ring buffer's own record header: its low 32 bits are the length, bit 31 busy, bit 30 discarded.
RING = Layout(
    "ring",
    1,
    (
        ("header", "Q"),
        ("ts_ns", "Q"),
        ("type", "H"),
        ("cpu", "H"),
        ("tid", "I"),
        ("a", "Q"),
        ("b", "Q"),
        ("c", "Q"),
        ("d", "Q"),
    ),
)


class RingType(enum.IntEnum):
    """What a RING record is. `tid` is the thread that it happened on; times are CLOCK_MONOTONIC ns.

    The same numbers stand in ebpf/slmtrace.h; a test compares them.
    """

    FORK = 1  # tid: parent; a: child tid, b: child tgid, c: parent tgid
    EXEC = 2  # a: tgid
    EXIT = 3  # a: tgid, b: wait status (signal: 7 bits | exit code << 8); c, d: comm (16 bytes)
    # tid: prev; a: next tid, b: prev_state (16 bits) | SWITCH_* flags, c: prev tgid | next tgid << 32,
    # d: SWITCH_*_IN_TREE | prev's time on the CPU since its last departure, by the scheduler's account << 32 (a virtual
    # machine's host may have kept some of the time between arrival and departure for itself)
    SWITCH = 4
    WAKING = 5  # tid: current; a: wakee tid, b: IRQ_* context, c: wakee tgid, d: current's tgid
    FAULT = 6  # ts: start; a: address, b: dur_ns, c: FAULT_* flags | device << 32, d: inode (0: anonymous)
    SYSCALL = 7  # ts: start; a: number, b: dur_ns, c: argument (size_bytes, fd or futex address), d: return value
    # ts: first, a: last end, b: FoldClass | count << 8 (24 bits) | bytes << 32, c: own ns | device << 32, d: inode.
    # Count 0: nothing was folded; it names the file of the long SYSCALL that began at ts on the same thread.
    FOLD = 8
    # a: sector, b: size_bytes, c: device | a number that no other request in flight has << 32 (0: an old capture, which
    # tells requests by their sectors), d: 'R', 'W', ... as a number
    BLOCK_START = 9
    BLOCK_DONE = 10  # a: sector, b: 1 if it was merged into the request that ends where it begins, c: as of BLOCK_START
    COMPACTION = 11  # ts: start; a: status, b: dur_ns
    RECLAIM = 12  # ts: start; a: order, b: dur_ns, c: pages reclaimed
    KHUGEPAGED = 13  # instant; a: status, b: pages scanned
    MIGRATE = 14  # instant; a: succeeded, b: failed, c: mode, d: reason
    MALLOC = 15  # ts: start; a: MALLOC_OPS index, b: dur_ns, c: size_bytes, d: pointer
    # written for threads enrolled, alive at the end, or outside the tree; a: tgid, b: NAME_*; c, d: comm (16 bytes)
    NAME = 16
    TEXT = 17  # written by the collector; tid: string id, cpu: bytes used; ts, a..d hold 40 bytes of text
    FILE = 18  # written by the collector; tid: string id of the path, a: inode, b: device, c: size_bytes
    LOST = 19  # written by the collector; a: LostCause, b: records lost since the last LOST record of that cause
    ALIVE = 20  # written by the collector every 250 ms: all before ts has been drained; a: records seen so far
    UPROBE = 21  # a call of a function of the CUDA driver; ts: start; a: the function's number, b: dur_ns
    IOMMU = 22  # instant; a: size_bytes, b: 1 map, 2 unmap
    # of a POST that the tree answered; ts: end of the system call; a: fd, b: HTTP_*, c: tgid, d: bytes read or written
    HTTP = 23
    PYTHON = 24  # written by the collector; tid: tgid; a: address of the process's CPython runtime state, b: size_bytes
    SPIN = 25  # a sample that found the thread in a spin loop; a: period of the samples in ns
    FUNCTION = 26  # written by the collector; tid: string id of a name, a: the number that has it in UPROBE records
    DESCRIPTOR = 27  # written by the collector; an open GPU device; tid: string id of its path, a: tgid, b: fd


# How often a CPU is looked at for spin loops. In a virtual machine, such an interrupt takes several microseconds.
SPIN_PERIOD_NS = 2_000_000

SWITCH_IOWAIT = 1 << 16
SWITCH_PREEMPTED = 1 << 17
SWITCH_REBUILT = 1 << 18  # the kernel did not report it: `next` arrived unseen, and later left

SWITCH_PREV_IN_TREE = 1 << 0
SWITCH_NEXT_IN_TREE = 1 << 1

HTTP_REQUEST = 1  # its first bytes were read
HTTP_BODY = 2  # the first bytes of a successful answer's body were written

NAME_OF_MEMBER = 0  # of the traced tree, at the end
NAME_OF_OUTSIDER = 1  # a thread outside the tree that has records of its own
NAME_AT_ENROLL = 2  # the tree's first threads: from here on they are followed

IRQ_SOFTIRQ_MASK = 0xFF  # vector + 1
IRQ_TIMER = 1 << 8
IRQ_HARD_MASK = 0xFFFF0000  # (irq + 1) << 16

FAULT_MAJOR = 1 << 0
FAULT_FILE = 1 << 1  # the page cache took part: filemap tracepoints fired inside the fault
FAULT_KERNEL = 1 << 2  # taken in kernel mode, on a user address
FAULT_WRITE = 1 << 3
FAULT_INSTRUCTION = 1 << 4
FAULT_PROTECTION = 1 << 5  # the page was present: copy on write
FAULT_HUGE = 1 << 6  # it allocated a huge page


class FoldClass(enum.IntEnum):
    """Classes of events too short to be sent one by one: summed per thread over at most about 1 ms."""

    ANON_FAULT = 0
    FILE_FAULT = 1
    READ = 2  # read, pread64, readv, preadv, preadv2
    ALLOC = 3  # mmap, munmap, brk, madvise, mremap, mprotect
    OPEN_STAT = 4  # open*, stat*, access*, getdents*, readlink*, close
    FUTEX = 5
    OTHER_SYSCALL = 6
    YIELD = 7  # sched_yield and zero-timeout polls
    PAGE_CACHE_ADD = 8  # pages read into the page cache; ns is 0
    MALLOC = 9
    IPC = 10  # send*, recv*, write, poll, epoll_wait, select


class LostCause(enum.IntEnum):
    """Why a record of the kernel never reached the log."""

    RING_FULL = 0
    THREAD_MAP_FULL = 1
    LOG_WRITE = 2
