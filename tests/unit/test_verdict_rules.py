"""Every rule: a window that it must find something in, and one that looks like it and is healthy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from slmtrace.model.report import BATCH_OTHERS
from slmtrace.model.taxonomy import Cause, Stage, WindowKind
from slmtrace.verdict.facts import DeviceUse, WindowFacts
from slmtrace.verdict.imports import ImportedAgain
from slmtrace.verdict.rules import RULES
from tests.support.builders import MS
from tests.support.verdicts import Scene, Times, rows

C, S, TTFT = Cause, Stage, WindowKind.TTFT
IMPORTS: Times = {(S.IMPORT, C.IMPORT): 5000}
PREFILL: Times = {(S.PREFILL, C.CPU_KERNEL): 100}
MIB = 1 << 20
READ = {C.MAJOR_FAULT: 512 * MIB}
DISK = [{"filesystem": "ext4", "is_network": False, "device": {"name": "sda", "read_ahead_kb": 128}}]
SMALL = [{"filesystem": "ext4", "is_network": False, "device": {"name": "sda", "read_ahead_kb": 4}}]
GPU = {"pcie_width": 16, "pcie_width_max": 16, "pcie_generation_max": 4, "sm_clock_mhz": 1900, "sm_clock_max_mhz": 1980}


def gpu(**facts: int) -> dict[str, object]:
    return {"gpu": {moment: {"gpus": [{**GPU, **facts}]} for moment in ("before", "after")}}


def far(*nodes: int) -> dict[str, object]:
    return {**gpu(numa_node=1), "numa": {"before": {"nodes_usable": list(nodes)}}}


def caches(before: int, after: int) -> dict[str, object]:
    return {"compile_caches": {m: {"triton": {"n_files": n}} for m, n in (("before", before), ("after", after))}}


@dataclass(frozen=True)
class Pair:
    """What a rule must find, and what it must leave alone."""

    faulty: Scene
    healthy: Scene


def load(cause: Cause, ms: int, stage: Stage = S.WEIGHTS) -> Times:
    return {**IMPORTS, (stage, cause): ms}


def answer(cause: Cause, ms: int, stage: Stage = S.PREFILL) -> Times:
    return {**PREFILL, (stage, cause): ms}


COLD = Scene(load(C.MAJOR_FAULT, 2000), size_bytes=READ, state={"page_cache": {"resident_fraction": 0.0}})
HELD = DeviceUse(n_reads=512, size_bytes=512 * MIB, busy_ns=300 * MS, idle_wait_ns=1800 * MS, latency_ns=1 * MS)
BUSY = replace(HELD, busy_ns=1900 * MS, idle_wait_ns=10 * MS)
SLOW = DeviceUse(n_reads=512, size_bytes=512 * MIB, busy_ns=20_000 * MS, latency_ns=40 * MS)
TINY = DeviceUse(n_reads=131_072, size_bytes=512 * MIB, busy_ns=9_000 * MS, latency_ns=70_000)
QUOTA = WindowFacts(grown={"cgroup throttled": 900_000, "cgroup nr_throttled": 12})
LIMIT = {"cgroup": {"before": {"memory_max_bytes": 1 << 30}}}

WEIGHTS = "/m/model.safetensors"


def mapped(n_faults: int) -> dict[Cause, dict[str, object]]:
    """Return the detail of 2 s of faults on 512 MiB of mapped weights."""
    return {C.MAJOR_FAULT: {"files": [{"name": WEIGHTS, "ns": 2000 * MS, "count": n_faults, "bytes": 512 * MIB}]}}


SPAWNED = ImportedAgain({C.IMPORT: 2000 * MS}, {"torch": 1800 * MS, "numpy": 200 * MS}, ("multiprocessing.spawn",))
FEW = {"cpu": {"before": {"omp_num_threads": 1, "n_usable": 4}}}

PAIRS: dict[str, Pair] = {
    "network_weights": Pair(
        replace(COLD, state={"storage": [{"filesystem": "nfs4", "is_network": True}]}),
        # The weights lie on a network file system, and nothing was read of them: they were in memory.
        replace(COLD, size_bytes={}, state={"storage": [{"filesystem": "nfs4", "is_network": True}]}),
    ),
    "io_throttled": Pair(
        replace(COLD, facts=WindowFacts(device=HELD)),
        # The device was busy all the time that the task waited: it is cold, not held back.
        replace(COLD, facts=WindowFacts(device=BUSY)),
    ),
    "small_readahead": Pair(
        Scene(load(C.MAJOR_FAULT, 9_500), size_bytes=READ, facts=WindowFacts(device=TINY), state={"storage": SMALL}),
        # Small reads, of files scattered over the disk: readahead is as it should be.
        Scene(load(C.MAJOR_FAULT, 9_500), size_bytes=READ, facts=WindowFacts(device=TINY), state={"storage": DISK}),
    ),
    "fault_bound_weights": Pair(
        replace(COLD, detail=mapped(131_072)),
        # Readahead brings 8 MiB at every fault.
        replace(COLD, detail=mapped(64)),
    ),
    "shared_device": Pair(
        Scene(
            load(C.MAJOR_FAULT, 2000), size_bytes=READ, facts=WindowFacts(device=replace(BUSY, written_bytes=4 << 30))
        ),
        # What the device read is what the tree itself brought in.
        Scene(load(C.MAJOR_FAULT, 2000), size_bytes=READ, facts=WindowFacts(device=BUSY)),
    ),
    "slow_device": Pair(
        Scene(load(C.MAJOR_FAULT, 20_000), size_bytes=READ, facts=WindowFacts(device=SLOW)),
        replace(COLD, facts=WindowFacts(device=BUSY)),
    ),
    "swapped_out": Pair(
        Scene(load(C.MAJOR_FAULT, 2000), facts=WindowFacts(grown={"vmstat pswpin": 131_072}, device=BUSY)),
        Scene(load(C.MAJOR_FAULT, 2000), facts=WindowFacts(grown={"vmstat pswpin": 3}, device=BUSY), size_bytes=READ),
    ),
    "cold_weights": Pair(COLD, replace(COLD, times_ms=load(C.FILE_READ_COPY, 2000), size_bytes={})),
    "cold_files": Pair(
        Scene(load(C.BLOCK_IO_WAIT, 2000, S.IMPORT), size_bytes={C.BLOCK_IO_WAIT: 300 * MIB}),
        # Only the weights were cold.
        COLD,
    ),
    "many_lookups": Pair(Scene(load(C.OPEN_STAT, 2000, S.IMPORT)), Scene(load(C.OPEN_STAT, 200, S.IMPORT))),
    "thp_compaction": Pair(Scene(load(C.COMPACTION, 900)), Scene(load(C.THP_FAULT, 900))),
    "memory_limit": Pair(
        Scene(load(C.RECLAIM, 900), facts=WindowFacts(grown={"cgroup memory failcnt": 900}), state=LIMIT),
        # Reclaim without a limit is the node's, not the cgroup's.
        Scene(load(C.RECLAIM, 900)),
    ),
    "memory_short": Pair(
        Scene(load(C.RECLAIM, 900)),
        Scene(load(C.RECLAIM, 900), facts=WindowFacts(grown={"cgroup memory max": 900}), state=LIMIT),
    ),
    "huge_pages_off": Pair(
        Scene(load(C.ANON_FAULT, 2500), state={"thp": {"before": {"enabled": "never"}}}),
        Scene(load(C.ANON_FAULT, 2500), state={"thp": {"before": {"enabled": "madvise"}}}),
    ),
    "slow_faults": Pair(
        Scene(load(C.ANON_FAULT, 2500), facts=WindowFacts(fault_ns=100_000)),
        # One event stands for all: 2.5 s of faults, at the price of the fastest.
        Scene(load(C.ANON_FAULT, 2500), facts=WindowFacts(fault_ns=2_000 * MS)),
    ),
    "slow_malloc": Pair(Scene(load(C.MALLOC_SLOW, 900)), Scene(load(C.MALLOC_SLOW, 90))),
    "arena_contention": Pair(Scene(load(C.ARENA_WAIT, 900)), Scene(load(C.MALLOC_SLOW, 900))),
    "map_lock": Pair(Scene(load(C.MMAP_LOCK_WAIT, 900)), Scene(load(C.MMAP_CALL, 500))),
    "map_churn": Pair(Scene(load(C.MMAP_CALL, 2000)), Scene(load(C.MMAP_CALL, 500))),
    "compiled_anew": Pair(
        Scene(load(C.JIT_COMPILE, 2000, S.COMPILE), state=caches(0, 40)),
        Scene(load(C.MODULE_LOAD, 2000, S.COMPILE), state=caches(40, 40)),
    ),
    "first_use_in_request": Pair(
        Scene(answer(C.MODULE_LOAD, 80), TTFT),
        # While the model is loaded, nobody waits for an answer.
        Scene(load(C.MODULE_LOAD, 800)),
    ),
    "link_degraded": Pair(
        Scene(load(C.H2D_PINNED, 2000), state=gpu(pcie_width=4)), Scene(load(C.H2D_PINNED, 2000), state=gpu())
    ),
    "wrong_numa_node": Pair(
        Scene(load(C.H2D_PINNED, 2000), size_bytes={C.H2D_PINNED: 8 << 30}, state=far(0)),
        Scene(load(C.H2D_PINNED, 2000), size_bytes={C.H2D_PINNED: 8 << 30}, state=far(0, 1)),
    ),
    "pageable_copies": Pair(
        Scene(load(C.H2D_PAGEABLE, 2000), size_bytes={C.H2D_PAGEABLE: 3 << 30}, state=gpu()),
        Scene(load(C.H2D_PINNED, 2000), size_bytes={C.H2D_PINNED: 40 << 30}, state=gpu()),
    ),
    "pinning": Pair(Scene(load(C.PIN_MEMORY, 900)), Scene(load(C.CUDA_MALLOC, 900))),
    "gpu_clocks": Pair(
        Scene(answer(C.GPU_KERNEL, 400), TTFT, state=gpu(sm_clock_mhz=210, throttle_reasons=8)),
        # After the run it idles, and says so: that is no reason for slow kernels.
        Scene(answer(C.GPU_KERNEL, 400), TTFT, state=gpu(sm_clock_mhz=210, throttle_reasons=1)),
    ),
    "slow_tokenizer": Pair(
        Scene(answer(C.LOCK_WAIT, 30, S.TOKENIZE), TTFT, facts=WindowFacts(n_tokens=128)),
        # As long, for a prompt that is long.
        Scene(answer(C.TOKENIZE, 30, S.TOKENIZE), TTFT, facts=WindowFacts(n_tokens=3_000)),
    ),
    "garbage_collection": Pair(
        Scene(answer(C.CPU_KERNEL, 100), TTFT, {C.CPU_KERNEL: {"ranges": rows(**{"garbage collection": 40})}}),
        Scene(answer(C.CPU_KERNEL, 100), TTFT, {C.CPU_KERNEL: {"ranges": rows(prefill=40)}}),
    ),
    "no_compiled_python": Pair(
        Scene(IMPORTS, facts=WindowFacts(compiled_ns=4_000 * MS, n_compiled=900)),
        Scene(IMPORTS, facts=WindowFacts(compiled_ns=40 * MS, n_compiled=3)),
    ),
    "serial_imports": Pair(
        Scene(IMPORTS, facts=WindowFacts(again=SPAWNED)),
        # vLLM for CPUs has no other way.
        Scene(IMPORTS, facts=WindowFacts(again=replace(SPAWNED, ns_by_package={"torch": 1500 * MS, "vllm": 500 * MS}))),
    ),
    "engine_queue": Pair(
        Scene(answer(C.ENGINE_QUEUE, 80, S.QUEUE), TTFT), Scene(answer(C.ENGINE_QUEUE, 1, S.QUEUE), TTFT)
    ),
    "next_step_first": Pair(
        Scene(
            answer(C.ENGINE_SCHEDULE, 30, S.RETURN), TTFT, {C.ENGINE_SCHEDULE: {"ranges": rows(**{"next step": 30})}}
        ),
        Scene(answer(C.ENGINE_SCHEDULE, 30, S.SCHEDULE), TTFT, {C.ENGINE_SCHEDULE: {"ranges": rows(schedule=30)}}),
    ),
    "batch_interference": Pair(
        Scene(PREFILL, TTFT, {C.CPU_KERNEL: {"batch": rows(**{BATCH_OTHERS: 60})}}),
        Scene(PREFILL, TTFT, {C.CPU_KERNEL: {"batch": rows(**{"tokens of this request": 60})}}),
    ),
    "cpu_quota": Pair(Scene(load(C.RUN_QUEUE, 900), facts=QUOTA), Scene(load(C.RUN_QUEUE, 900))),
    "too_many_threads": Pair(
        Scene(load(C.RUN_QUEUE, 900), facts=WindowFacts(own_queue_ns=800 * MS)), Scene(load(C.RUN_QUEUE, 900))
    ),
    "few_threads": Pair(
        Scene(PREFILL, TTFT, facts=WindowFacts(busy_cpus=1.0), state=FEW),
        # The libraries keep more CPUs busy than the variable says.
        Scene(PREFILL, TTFT, facts=WindowFacts(busy_cpus=3.9), state=FEW),
    ),
    "cpu_contention": Pair(
        Scene(load(C.RUN_QUEUE, 900)), Scene(load(C.RUN_QUEUE, 900), facts=WindowFacts(own_queue_ns=900 * MS))
    ),
    "gil_contention": Pair(Scene(answer(C.GIL_WAIT, 30), TTFT), Scene(answer(C.GIL_WAIT, 1), TTFT)),
    "slow_messages": Pair(Scene(answer(C.IPC, 30, S.DISPATCH), TTFT), Scene(answer(C.IPC, 1, S.DISPATCH), TTFT)),
    "sleeping": Pair(
        Scene(load(C.LOCK_WAIT, 900), detail={C.LOCK_WAIT: {"functions": rows(clock_nanosleep=900)}}),
        Scene(load(C.LOCK_WAIT, 900), detail={C.LOCK_WAIT: {"functions": rows(futex=900)}}),
    ),
    "lock_contention": Pair(Scene(load(C.LOCK_WAIT, 900)), Scene(load(C.LOCK_WAIT, 90))),
    "slow_spawn": Pair(
        Scene(load(C.PROCESS_SPAWN, 2000, S.PROCESS_SPAWN)), Scene(load(C.PROCESS_SPAWN, 500, S.PROCESS_SPAWN))
    ),
    "outside_wait": Pair(Scene(load(C.EXTERNAL, 900, S.CONFIG)), Scene(load(C.EXTERNAL, 90, S.CONFIG))),
}
# What compares requests with one another is in test_verdict.py.
_AMONG_REQUESTS = {"odd_request", "gpu_shared", "memory_churn", "dropped_while_idle"}


def test_every_rule_has_its_pair() -> None:
    assert set(PAIRS) | _AMONG_REQUESTS == {rule.id for rule in RULES}


@pytest.mark.parametrize("rule", PAIRS)
def test_a_rule_finds_its_fault(rule: str) -> None:
    findings = {finding.id: finding for finding in PAIRS[rule].faulty.findings()}

    assert rule in findings
    assert findings[rule].excess_ns >= findings[rule].predicted_gain_ns > 0


@pytest.mark.parametrize("rule", PAIRS)
def test_a_rule_leaves_alone_what_only_looks_like_its_fault(rule: str) -> None:
    findings = PAIRS[rule].healthy.findings()

    assert rule not in {finding.id for finding in findings}


MAPPED = {C.READAHEAD_WAIT: {"files": rows(**{"/hub/blobs/c0ffee": 80})}}


@pytest.mark.parametrize(
    ("known", "name"), [("c0ffee", "cold_weights"), ("config.json", "cold_files")], ids=["weights", "other files"]
)
def test_weights_that_the_first_pass_reads_are_cold_weights(known: str, name: str) -> None:
    state = {"page_cache": {"before": {"resident_fraction": 0.0, "files": [{"name": known}]}}}
    scene = Scene(answer(C.READAHEAD_WAIT, 80), TTFT, MAPPED, {C.READAHEAD_WAIT: 200 * MIB}, state=state)

    assert [finding.id for finding in scene.findings()] == [name]


def test_weights_that_are_too_little_for_a_finding_are_not_other_files() -> None:
    files = {C.MAJOR_FAULT: {"files": rows(**{"/models/m/model.safetensors": 100, "/lib/libtorch_cpu.so": 400})}}
    scene = Scene(load(C.MAJOR_FAULT, 500, S.IMPORT), detail=files, size_bytes={C.MAJOR_FAULT: 500 * MIB})

    (finding,) = (one for one in scene.findings() if one.id == "cold_files")

    assert finding.excess_ns == 400 * MS
    assert "most of all for libtorch_cpu.so" in finding.evidence


def test_a_range_with_next_to_nothing_of_the_time_is_not_named_where_a_process_has_it() -> None:
    slept = {"functions": rows(clock_nanosleep=900), "ranges": rows(init=1), "processes": rows(sleep=899, python=1)}
    scene = Scene(load(C.LOCK_WAIT, 900), detail={C.LOCK_WAIT: slept})

    (finding,) = (one for one in scene.findings() if one.id == "sleeping")

    assert finding.evidence.endswith("most of all in its process sleep")


@pytest.mark.parametrize(
    ("call", "told"), [("flock", "lslocks"), ("write", "read faster"), ("poll", "HF_HUB_OFFLINE"), ("", "SIGSTOP")]
)
def test_who_waits_for_something_outside_is_told_by_the_call_how_to_find_it(call: str, told: str) -> None:
    calls = {C.EXTERNAL: {"functions": rows(**{call: 900})}} if call else {}
    scene = Scene(load(C.EXTERNAL, 900, S.CONFIG), detail=calls)

    (finding,) = (one for one in scene.findings() if one.id == "outside_wait")

    assert told in finding.recommendation


def test_a_poll_that_timed_out_waited_for_an_answer_from_outside() -> None:
    scene = Scene(load(C.LOCK_WAIT, 900), detail={C.LOCK_WAIT: {"functions": rows(poll=800, futex=100)}})

    (finding,) = (one for one in scene.findings() if one.id == "outside_wait")

    assert finding.excess_ns == 800 * MS
    assert "in poll; for 800 ms of it no answer came in time" in finding.evidence


@pytest.mark.parametrize(
    ("n_misfits", "told"),
    [
        (0, "their .pyc files are missing"),
        (900, "the .pyc files of 900 do not fit their sources' times and sizes"),
        (400, "the .pyc files of 400 do not fit their sources' times and sizes, the others have none"),
    ],
)
def test_compiled_files_that_do_not_fit_are_told_from_missing_ones(n_misfits: int, told: str) -> None:
    facts = WindowFacts(compiled_ns=4000 * MS, n_compiled=900, n_misfits=n_misfits)

    (finding,) = Scene(IMPORTS, facts=facts).findings()

    assert finding.evidence.endswith(f": {told}")


def test_pythons_own_search_costs_as_much_as_its_calls_do() -> None:
    scene = Scene(load(C.OPEN_STAT, 1000, S.IMPORT), facts=WindowFacts(searched_ns=1500 * MS))

    (finding,) = scene.findings()

    # Of 6 s, a fiftieth is usual.
    assert (finding.id, finding.excess_ns) == ("many_lookups", 2380 * MS)
    assert "Python's own search around them 1.50 s" in finding.evidence


@pytest.mark.parametrize(("others_ms", "claimed_ms"), [(2_000, 900), (400, 400), (1, None)])
def test_other_programs_held_nothing_up_for_longer_than_they_ran(others_ms: int, claimed_ms: int | None) -> None:
    scene = Scene(load(C.RUN_QUEUE, 900), facts=WindowFacts(others_ns=others_ms * MS))

    claimed_ns = {finding.id: finding.excess_ns for finding in scene.findings()}

    assert claimed_ns == ({} if claimed_ms is None else {"cpu_contention": claimed_ms * MS})


def test_imports_from_source_that_come_twice_are_claimed_once() -> None:
    scene = Scene(IMPORTS, facts=WindowFacts(compiled_ns=3000 * MS, n_compiled=900, again=SPAWNED))

    claimed_ns = {finding.id: finding.excess_ns for finding in scene.findings()}

    # Compiling takes 3 of 5 s, and so 1.2 of the 2 s that come twice.
    assert claimed_ns == {"no_compiled_python": 3000 * MS, "serial_imports": 800 * MS}


def test_vllm_forks_on_a_gpu_if_it_is_told_to() -> None:
    again = replace(SPAWNED, ns_by_package={"torch": 1500 * MS, "vllm": 500 * MS}, processes=("VLLM::EngineCore",))

    (finding,) = Scene(IMPORTS, facts=WindowFacts(again=again), state=gpu()).findings()

    assert finding.evidence.startswith("VLLM::EngineCore started anew, and imported for 2.00 s")
    assert finding.recommendation.startswith("VLLM_WORKER_MULTIPROC_METHOD=fork")


@pytest.mark.parametrize(("before", "told"), [(0, "volume"), (20, "start again")])
def test_to_keep_caches_is_told_only_to_who_had_none(before: int, told: str) -> None:
    scene = Scene(load(C.TORCH_COMPILE, 2000, S.COMPILE), state=caches(before, 40))

    (finding,) = (one for one in scene.findings() if one.id == "compiled_anew")

    assert told in finding.recommendation


@pytest.mark.parametrize(
    ("ranges", "is_found"), [({"load compiled code": 1500}, False), ({"inductor codegen": 900}, True)]
)
def test_what_full_caches_served_was_not_compiled_anew(ranges: dict[str, int], is_found: bool) -> None:
    detail = {C.TORCH_COMPILE: {"ranges": rows(**ranges)}}
    scene = Scene(load(C.TORCH_COMPILE, 2000, S.COMPILE), state=caches(40, 40), detail=detail)

    assert ("compiled_anew" in [one.id for one in scene.findings()]) == is_found


def test_a_compiler_that_a_request_waits_for_belongs_before_the_traffic() -> None:
    scene = Scene(answer(C.TORCH_COMPILE, 2000), TTFT, state=caches(0, 40))

    (finding,) = (one for one in scene.findings() if one.id == "compiled_anew")

    assert "while the request waited" in finding.evidence
    assert finding.recommendation.startswith("send a request of this shape before the node takes traffic")


@pytest.mark.parametrize("rule", PAIRS)
def test_the_evidence_of_a_finding_has_numbers_and_its_remedy_is_one_line(rule: str) -> None:
    finding = next(one for one in PAIRS[rule].faulty.findings() if one.id == rule)

    assert any(character.isdigit() for character in finding.evidence)
    assert finding.recommendation and "\n" not in finding.evidence + finding.recommendation
