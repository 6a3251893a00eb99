"""The malloc shim in real processes, with every allocator that this machine has."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from slmtrace.capture.directory import Capture
from slmtrace.decode import malloc
from slmtrace.decode.base import Fragment
from slmtrace.model.events import Events, concatenate_events
from slmtrace.probes.base import ProbeResult, RecordOptions
from slmtrace.probes.malloc import MallocProbe
from tests.support.logs import make_context, new_capture

N_CALLS = 1009
SIZE_BYTES = 12347
ALL_CALLS_NS = 0  # a threshold that every call reaches, however few ticks of the clock it takes
LIBRARIES = {
    "libc": "",
    "jemalloc": "libjemalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
    "mimalloc": "libmimalloc.so.2",
}

PROGRAM = r"""
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static void *calls(void *n_text) {
	for (long i = 0, n = atol(n_text); i < n; i++) {
		void *volatile p = malloc(12347);
		memset(p, 1, 12347);
		free(p);
	}
	return 0;
}
int main(int argc, char **argv) {
	char *mode = argv[1];
	pthread_t threads[4];
	if (!strcmp(mode, "calls") || !strcmp(mode, "killed"))
		calls(argv[2]);
	if (!strcmp(mode, "killed"))
		raise(SIGKILL);
	if (!strcmp(mode, "fork")) {
		calls(argv[2]);
		if (!fork()) { calls(argv[2]); _exit(0); }
		wait(0);
	}
	if (!strcmp(mode, "threads")) {
		for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, calls, argv[2]);
		for (int i = 0; i < 4; i++) pthread_join(threads[i], 0);
	}
	if (!strcmp(mode, "every")) {
		void *p = 0, *volatile q;
		if (posix_memalign(&p, 64, 1009) || (size_t)p % 64) return 2;
		free(p);
		q = aligned_alloc(64, 1024); if ((size_t)q % 64) return 3;
		free(q);
		q = memalign(4096, 1013); if ((size_t)q % 4096) return 4;
		free(q);
		char *volatile c = calloc(1019, 3);
		for (int i = 0; i < 3057; i++) if (c[i]) return 5;
		c[3056] = 7;
		c = realloc(c, 7919); if (c[3056] != 7) return 6;
		free(c);
		free(0);
	}
	if (!strcmp(mode, "slow")) {
		/* Fresh memory of 256 MB in one calloc and free: mapping and unmapping takes a while. */
		char *volatile c = malloc(256 << 20); memset(c, 1, 256 << 20); free(c);
	}
	return argc > 3 ? atoi(argv[3]) : 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("program")
    (directory / "calls.c").write_text(PROGRAM)
    path = directory / "calls"
    subprocess.run(["cc", "-O1", "-fno-builtin", "-o", path, directory / "calls.c", "-lpthread"], check=True)
    return path


class Run:
    """One run of a program under the probe, decoded."""

    def __init__(self, tmp_path: Path, command: list[str], threshold_ns: int = ALL_CALLS_NS, preload: str = "") -> None:
        self.capture: Capture = new_capture(tmp_path)
        probe = MallocProbe()
        probe.start(self.capture, RecordOptions(malloc="slow", threshold_ns=threshold_ns))
        environ = {**os.environ, "LD_PRELOAD": preload}
        environ.update(probe.environ(environ))
        self.start_ns = time.monotonic_ns()
        self.done = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=60)
        self.end_ns = time.monotonic_ns()
        self.result: ProbeResult = probe.stop()
        self.context = make_context()
        logs, unreadable = self.capture.raw_logs()
        assert unreadable == []
        self.fragments: list[Fragment] = [malloc.decode(log, self.context) for log in logs]
        self.events: Events = concatenate_events([fragment.events for fragment in self.fragments])

    def count(self, op: str, size_bytes: int) -> int:
        is_op = self.events.name == self.context.strings.intern(op)
        return int((is_op & (self.events.size_bytes == size_bytes)).sum())


@pytest.fixture(params=LIBRARIES)
def preload(request: pytest.FixtureRequest) -> str:
    library = LIBRARIES[request.param]
    if library:
        environ = {**os.environ, "LD_PRELOAD": library}
        if subprocess.run(["/bin/true"], env=environ, capture_output=True, check=False).stderr:
            pytest.skip(f"{library} is not installed")
    return library


def test_every_call_is_recorded_with_its_size_and_time(tmp_path: Path, program: Path, preload: str) -> None:
    run = Run(tmp_path, [str(program), "calls", str(N_CALLS)], preload=preload)

    assert run.done.returncode == 0
    assert run.count("malloc", SIZE_BYTES) == N_CALLS
    assert run.count("free", 0) >= N_CALLS
    assert run.events.start_ns.min() >= run.start_ns
    assert run.events.end_ns.max() <= run.end_ns
    assert (run.events.end_ns >= run.events.start_ns).all()
    assert run.result.written == sum(fragment.decoded for fragment in run.fragments)
    assert run.result.lost == {}


def test_every_function_works_and_is_told_apart(tmp_path: Path, program: Path, preload: str) -> None:
    run = Run(tmp_path, [str(program), "every"], preload=preload)

    assert run.done.returncode == 0
    sizes = {"posix_memalign": 1009, "aligned_alloc": 1024, "memalign": 1013, "calloc": 3057, "realloc": 7919}
    assert {op: run.count(op, size) for op, size in sizes.items()} == dict.fromkeys(sizes, 1)


def test_calls_of_one_thread_do_not_overlap(tmp_path: Path, program: Path) -> None:
    run = Run(tmp_path, [str(program), "calls", str(N_CALLS)])

    order = np.argsort(run.events.start_ns, kind="stable")
    gaps = run.events.start_ns[order][1:] - run.events.end_ns[order][:-1]
    # Each record converts the counter by a fresh pair of clock reads, good to some tens of ns.
    assert gaps.min() > -1_000


def test_more_calls_than_a_log_holds_go_into_further_logs(tmp_path: Path, program: Path) -> None:
    run = Run(tmp_path, [str(program), "calls", "40009"])

    assert run.count("malloc", SIZE_BYTES) == 40_009
    assert len(run.fragments) > 2
    assert run.result.lost == {}


def test_threads_share_a_log_and_keep_their_ids(tmp_path: Path, program: Path) -> None:
    run = Run(tmp_path, [str(program), "threads", "1009"])

    is_call = run.events.size_bytes == SIZE_BYTES
    by_track = Counter(run.events.track[is_call].tolist())
    assert sorted(by_track.values()) == [1009] * 4
    assert run.result.lost == {}


def test_what_threads_lose_while_a_full_log_is_replaced_is_counted(tmp_path: Path, program: Path) -> None:
    run = Run(tmp_path, [str(program), "threads", "9001"])

    is_call = run.events.size_bytes == SIZE_BYTES
    lost = sum(run.result.lost.values())
    assert len(set(run.events.track[is_call].tolist())) == 4
    assert 4 * 9001 - lost <= int(is_call.sum()) <= 4 * 9001


def test_a_forked_child_has_a_log_of_its_own(tmp_path: Path, program: Path) -> None:
    run = Run(tmp_path, [str(program), "fork", str(N_CALLS)])

    pids = {run.context.tracks[track].pid for track in run.events.track.tolist()}
    assert len(pids) == 2
    assert run.count("malloc", SIZE_BYTES) == 2 * N_CALLS


def test_a_killed_process_keeps_what_it_wrote(tmp_path: Path, program: Path) -> None:
    run = Run(tmp_path, [str(program), "killed", str(N_CALLS)])

    assert run.done.returncode == -9
    assert run.count("malloc", SIZE_BYTES) == N_CALLS


def test_only_calls_over_the_threshold_are_recorded(tmp_path: Path, program: Path) -> None:
    run = Run(tmp_path, [str(program), "slow"], threshold_ns=20_000)

    assert run.count("free", 0) >= 1  # unmapping 65,536 touched pages takes milliseconds
    assert (run.events.end_ns - run.events.start_ns >= 20_000).all()
    assert len(run.events) < 100


def test_output_and_exit_code_are_those_of_the_program(tmp_path: Path, program: Path) -> None:
    run = Run(tmp_path, [str(program), "calls", "3", "41"])

    assert (run.done.returncode, run.done.stdout, run.done.stderr) == (41, b"", b"")


def test_a_capture_that_cannot_be_written_costs_the_target_nothing(tmp_path: Path, program: Path) -> None:
    probe = MallocProbe()
    probe.start(new_capture(tmp_path), RecordOptions(malloc="slow", threshold_ns=ALL_CALLS_NS))
    environ = {**os.environ, **probe.environ({}), "SLMTRACE_MALLOC_DIR": "/proc/no/such/place"}

    done = subprocess.run([program, "calls", "3", "41"], env=environ, capture_output=True, check=False, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (41, b"", b"")
