"""Rules about waiting for a turn: CPU quota, other programs, too many threads, the GIL, locks, queues, messages."""

from __future__ import annotations

from ...model.report import BATCH_OTHERS
from ...model.taxonomy import Cause, Phase, WindowKind
from ...units import format_count, format_ns
from ..case import Case
from ..rule import Claim, Rule

_CPU_WAITS = (Cause.RUN_QUEUE, Cause.CPU_THROTTLED)
_SLEEPS = ("clock_nanosleep", "nanosleep", "pause", "select", "pselect6")
_NETWORK_CALLS = ("connect", "recvfrom", "recvmsg", "sendto", "poll", "ppoll")
_FILE_LOCKS = ("flock", "fcntl")
_WRITES = ("write", "writev")
_COMPUTE = tuple(cause for cause in Cause if cause.phase is Phase.COMPUTE)
_USUAL_SPAWN = 0.1
# Two time slices of the scheduler (base_slice_ns, 2.8 to 4 ms): so long a thread waits that was put on the wrong CPU.
_TWO_SLICES_NS = 8_000_000


def _quota(case: Case) -> Claim | None:
    throttled_ns = 1000 * case.facts.grown.get("cgroup throttled", 0)
    seen_ns = case.left((Cause.CPU_THROTTLED,))
    if not throttled_ns and not seen_ns:
        return None
    # The counter sums over the CPUs, and reaches beyond the window. Where it grew by the better part of the waits, the
    # rest of them is the crowd at the end of each pause.
    waits_ns = case.left(_CPU_WAITS)
    took_ns = seen_ns or (waits_ns if throttled_ns >= waits_ns / 2 else throttled_ns)
    limit, n = case.known("cgroup", "cpu_limit_cpus"), case.facts.grown.get("cgroup nr_throttled", 0)
    of = f" of {limit:g} CPUs" if isinstance(limit, int | float) else ""
    times = f", {format_count(n)} times" if n else ""
    return Claim(
        took_ns,
        f"the cgroup's quota{of} was used up{times}: ready to run for {format_ns(took_ns)}, and not let",
        "raise the CPU limit (cpu.max; for a container its cpu limit), or remove it and keep only a request",
    )


def _too_many_threads(case: Case) -> Claim | None:
    took_ns = min(case.facts.own_queue_ns, case.left((Cause.RUN_QUEUE,)))
    n_cpus = int(case.number("cpu", "n_usable"))
    have = f" on {n_cpus} CPUs" if n_cpus else ""
    return Claim(
        took_ns,
        f"ready to run for {format_ns(took_ns)} while other threads of the program had the CPU{have}",
        f"fewer threads (OMP_NUM_THREADS={n_cpus or 'N'}, TOKENIZERS_PARALLELISM=false), or more CPUs",
    )


def _few_threads(case: Case) -> Claim | None:
    """Computing on fewer CPUs than the program may use because it was told to. That more help as much is a guess."""
    n_threads, n_cpus = (int(case.number("cpu", key)) for key in ("omp_num_threads", "n_usable"))
    took_ns = case.left((Cause.CPU_KERNEL,))
    if case.is_load or not 0 < n_threads < n_cpus or not 0 < case.facts.busy_cpus < n_threads + 0.5:
        return None
    excess_ns = took_ns * (n_cpus - n_threads) // n_cpus
    return Claim(
        excess_ns,
        f"computed for {format_ns(took_ns)} on {case.facts.busy_cpus:.1f} of {n_cpus} CPUs: OMP_NUM_THREADS is "
        f"{n_threads}",
        f"OMP_NUM_THREADS={n_cpus}; launchers set it, such as torchrun and Ray (to a task's num_cpus)",
        excess_ns // 2,
        "low",
    )


def _other_programs(case: Case) -> Claim | None:
    took_ns = case.left((Cause.RUN_QUEUE,))
    if case.facts.others_ns is not None:
        took_ns = min(took_ns, case.facts.others_ns)
    stalled_us = case.facts.grown.get("psi cpu some", 0)
    pressure = f"; CPU pressure grew by {format_ns(1000 * stalled_us)}" if stalled_us else ""
    return Claim(
        took_ns,
        f"ready to run for {format_ns(took_ns)} while other programs had the CPU{pressure}",
        "find them (top, pidstat 1) and keep them off: a cpuset of the server's own, or taskset -c",
    )


def _gil(case: Case) -> Claim | None:
    took_ns, name = case.left((Cause.GIL_WAIT,)), case.largest("ranges", (Cause.GIL_WAIT,))
    return Claim(
        took_ns,
        f"waited {format_ns(took_ns)} for Python's lock" + (f", most of all in {name}" if name else ""),
        "move the other thread's Python work to a process of its own (slmtrace view shows which thread held the lock)",
    )


def _queue(case: Case) -> Claim | None:
    took_ns = case.left((Cause.ENGINE_QUEUE,))
    return Claim(
        took_ns,
        f"the request waited {format_ns(took_ns)} in the engine's queue behind others",
        "admit more at a time (--max-num-seqs, --max-num-batched-tokens), or add a replica",
    )


def _next_step(case: Case) -> Claim | None:
    took_ns = case.ns_of("ranges", "next step", (Cause.ENGINE_SCHEDULE,))
    return Claim(
        took_ns,
        f"the engine spent {format_ns(took_ns)} on its next step before it handed the first token over",
        "--no-async-scheduling, or LLM(async_scheduling=False); later tokens may come slower: measure both",
        confidence="medium",
    )


def _batch(case: Case) -> Claim | None:
    others_ns = case.ns_of("batch", BATCH_OTHERS, _COMPUTE)
    return Claim(
        others_ns,
        f"{format_ns(others_ns)} of the steps computed tokens of other requests",
        "bound a step: --enable-chunked-prefill with a smaller --max-num-batched-tokens",
        confidence="medium",
    )


def _messages(case: Case) -> Claim | None:
    took_ns, name = case.left((Cause.IPC,)), case.largest("functions", (Cause.IPC,))
    return Claim(
        took_ns,
        f"messages between processes took {format_ns(took_ns)}" + (f", most of all {name}" if name else ""),
        "look at the receiver in the timeline (slmtrace view): a busy process, or a large message; "
        "VLLM_ENABLE_V1_MULTIPROCESSING=0 has none",
        confidence="medium",
    )


def _sleeping(case: Case) -> Claim | None:
    slept_ns = sum(case.ns_of("functions", name, (Cause.LOCK_WAIT,)) for name in _SLEEPS)
    where, process = (case.largest(key, (Cause.LOCK_WAIT,)) for key in ("ranges", "processes"))
    where = where or (process and f"its process {process}")
    return Claim(
        slept_ns,
        f"the program itself slept for {format_ns(slept_ns)}" + (f", most of all in {where}" if where else ""),
        "find the call of sleep or the polling loop (slmtrace run --probes with pyspy shows the stack), and wait for "
        "the event instead",
    )


def _locks(case: Case) -> Claim | None:
    took_ns = case.left((Cause.LOCK_WAIT,))
    name, where = case.largest("functions", (Cause.LOCK_WAIT,)), case.largest("ranges", (Cause.LOCK_WAIT,))
    inside = " of ".join(part for part in (name, where) if part)
    return Claim(
        took_ns,
        f"waited {format_ns(took_ns)} for locks, threads and timers" + (f", most of all in {inside}" if inside else ""),
        "slmtrace view shows who woke the thread: what that one did before is what held it up",
        confidence="medium",
    )


def _spawn(case: Case) -> Claim | None:
    took_ns = case.left((Cause.PROCESS_SPAWN,))
    usual_ns = round(_USUAL_SPAWN * case.total_ns) if case.window.kind is WindowKind.LOAD else 0
    return Claim(
        took_ns - usual_ns,
        f"{format_count(case.count(Cause.PROCESS_SPAWN))} starts of processes and threads took {format_ns(took_ns)}",
        "start workers once, before the model is loaded (fork copies the page tables of a large process)",
        confidence="medium",
    )


def _outside(case: Case) -> Claim | None:
    """Waits that nothing in the program ended, and those for an answer that did not come in time."""
    unanswered_ns = sum(case.ns_of("functions", name, (Cause.LOCK_WAIT,)) for name in _NETWORK_CALLS)
    took_ns = case.left((Cause.EXTERNAL,)) + unanswered_ns
    name = case.largest("functions", (Cause.LOCK_WAIT if unanswered_ns > took_ns / 2 else Cause.EXTERNAL,))
    unanswered = f"; for {format_ns(unanswered_ns)} of it no answer came in time" if unanswered_ns else ""
    return Claim(
        took_ns,
        f"waited {format_ns(took_ns)} for something outside the program"
        + (f", in {name}" if name else "")
        + unanswered,
        _remedy_outside(name, is_load=case.is_load),
        confidence="medium",
    )


def _remedy_outside(name: str, *, is_load: bool) -> str:
    if name in _NETWORK_CALLS and is_load:
        return "HF_HUB_OFFLINE=1, and a local model directory: nothing should be asked over the network at the start"
    if name in _FILE_LOCKS:
        return "another process holds a lock of a file: lslocks names both while it waits"
    if name in _WRITES:
        return "whoever reads what the program writes (a pipe, a log collector) is slow: read faster, or write less"
    if not name:
        return "it was in no system call: see whether something stops it (SIGSTOP, a debugger, a paused container)"
    return "find what the program waits for: strace -f -T -e trace=network, or slmtrace view"


RULES = (
    Rule("engine_queue", (Cause.ENGINE_QUEUE,), _queue),
    Rule("next_step_first", (Cause.ENGINE_SCHEDULE,), _next_step),
    Rule("batch_interference", _COMPUTE, _batch),
    Rule("cpu_quota", (Cause.CPU_THROTTLED, Cause.RUN_QUEUE), _quota),
    Rule("too_many_threads", (Cause.RUN_QUEUE,), _too_many_threads, least_ns=_TWO_SLICES_NS),
    Rule("few_threads", (Cause.CPU_KERNEL,), _few_threads),
    Rule("cpu_contention", (Cause.RUN_QUEUE,), _other_programs, least_ns=_TWO_SLICES_NS),
    Rule("gil_contention", (Cause.GIL_WAIT,), _gil),
    Rule("slow_messages", (Cause.IPC,), _messages),
    Rule("outside_wait", (Cause.EXTERNAL, Cause.LOCK_WAIT), _outside),
    Rule("sleeping", (Cause.LOCK_WAIT,), _sleeping),
    Rule("lock_contention", (Cause.LOCK_WAIT,), _locks),
    Rule("slow_spawn", (Cause.PROCESS_SPAWN,), _spawn),
)
