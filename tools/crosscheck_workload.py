"""A program that keeps its own books: it reads, maps, faults, waits and computes, and writes what the kernel counted.

python tools/crosscheck_workload.py DATA_FILE BOOKS_FILE

Standard library only, so that it can be recorded like any program. The books hold the kernel's accounts at the start
and at the end of the work, with the times of both, so that start-up and shutdown of Python stay out of the comparison.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import resource
import sys
import threading
import time
from pathlib import Path

PAGE_BYTES = mmap.PAGESIZE
N_ANON_PAGES = 20_011
N_ROUND_TRIPS = 1_009
N_WORKERS = 5
HASH_BYTES = 4 << 20  # hashlib lets go of the GIL for it, so that workers compete for the CPUs
N_HASHES = 47


def main() -> None:
    """Do the work between two readings of the accounts, and write both down."""
    data, books = Path(sys.argv[1]), Path(sys.argv[2])
    thread_books: list[dict[str, int]] = []
    # Made before the first reading: a worker's whole life then lies between the readings.
    workers = [threading.Thread(target=compute, args=(thread_books,)) for _ in range(N_WORKERS)]
    before = read_accounts()
    for worker in workers:
        worker.start()
    touch_anonymous_memory()
    read_first_half(data)
    map_second_half(data)
    talk_to_a_thread(thread_books)
    for worker in workers:
        worker.join()
    after = read_accounts()
    books.write_text(json.dumps({"before": before, "after": after, "threads": thread_books}))


def read_accounts() -> dict[str, int]:
    """Read the accounts of this process, of its main thread and of the disks, between two reads of the clock."""
    before_ns = time.monotonic_ns()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    io = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {
        "before_ns": before_ns,
        "faults": usage.ru_minflt + usage.ru_majflt,
        "major_faults": usage.ru_majflt,
        "cpu_ns": round((usage.ru_utime + usage.ru_stime) * 1e9),
        "rchar_bytes": int(io["rchar"]),
        "read_bytes": int(io["read_bytes"]),
        **read_disks(),
        "steal_ns": read_steal_ns(),
        **{f"main_{name}": value for name, value in read_schedstat().items()},
        "after_ns": time.monotonic_ns(),
    }


def read_disks() -> dict[str, int]:
    """Return the requests and bytes that all disks have completed (kernel documentation, "I/O statistics fields")."""
    total = {"disk_reads": 0, "disk_read_bytes": 0, "disk_writes": 0, "disk_written_bytes": 0}
    for line in Path("/proc/diskstats").read_text().splitlines():
        _, _, name, *values = line.split()
        if Path(f"/sys/block/{name}").is_dir():
            total["disk_reads"] += int(values[0])
            total["disk_read_bytes"] += int(values[2]) * 512
            total["disk_writes"] += int(values[4])
            total["disk_written_bytes"] += int(values[6]) * 512
    return total


def read_steal_ns() -> int:
    """Return how long a hypervisor kept our CPUs from running: the kernel takes it off a task's CPU time."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(fields[8]) * 10**9 // os.sysconf("SC_CLK_TCK")


def read_schedstat() -> dict[str, int]:
    """Read this thread's id, its time in a run queue so far, and when that was."""
    tid = threading.get_native_id()
    _, run_queue_ns, _ = Path(f"/proc/self/task/{tid}/schedstat").read_text().split()
    return {"tid": tid, "run_queue_ns": int(run_queue_ns), "at_ns": time.monotonic_ns()}


def compute(thread_books: list[dict[str, int]]) -> None:
    """Compete for a CPU."""
    data = bytes(HASH_BYTES)
    for _ in range(N_HASHES):
        hashlib.sha256(data).digest()
    thread_books.append(read_schedstat())


def touch_anonymous_memory() -> None:
    """Take one fault a page."""
    with mmap.mmap(-1, N_ANON_PAGES * PAGE_BYTES) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(N_ANON_PAGES):
            memory[page * PAGE_BYTES] = 1


def read_first_half(path: Path) -> None:
    """Read by system calls."""
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        for _ in range(path.stat().st_size // 2 // len(buffer)):
            file.readinto(buffer)


def map_second_half(path: Path) -> None:
    """Read by faults."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for offset in range(len(mapped) // 2, len(mapped), PAGE_BYTES):
            _ = mapped[offset]


def talk_to_a_thread(thread_books: list[dict[str, int]]) -> None:
    """Sleep and be woken, many times."""
    (question_end, question), (answer_end, answer) = os.pipe(), os.pipe()

    def reply() -> None:
        for _ in range(N_ROUND_TRIPS):
            os.write(answer, os.read(question_end, 1))
        thread_books.append(read_schedstat())

    thread = threading.Thread(target=reply)
    thread.start()
    for _ in range(N_ROUND_TRIPS):
        os.write(question, b"x")
        os.read(answer_end, 1)
    thread.join()


if __name__ == "__main__":
    main()
