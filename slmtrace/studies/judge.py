"""The rules of a health certificate: against physics and common sense, and against a healthy node of the same kind.

A limit says where a node is worth a look (warn) and where a big model should not be sent to it (fail). They are wide on
purpose: a pre-flight check that cries wolf is switched off. A baseline of the same kind of node is the sharper rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..output.summary import as_mapping
from ..units import format_bytes, format_rate

PASS, WARN, FAIL = "pass", "warn", "fail"
# The window of a slow one of the later requests; "later ttft" is the median one.
SLOW = "slow ttft"
_GRAVITY = {FAIL: 0, WARN: 1, PASS: 2}
# Against a baseline: this much worse.
BASELINE_WARN, BASELINE_FAIL = 1.25, 1.6
_LOWER_IS_BETTER = (*("cold_load_real_s", "warm_load_real_s", "ttft_first_s", "ttft_steady_s", "gen_latency_s"),)
_HIGHER_IS_BETTER = ("tokens_per_second",)
# What the device of the weights must deliver; one hard disk reads 100 to 250 MB/s.
_DISK_WARN, _DISK_FAIL = 200e6, 100e6
# A rate this close to a limit is the limit's, and not the device's.
_NEAR_LIMIT = 0.8
_CONTENTION_WARN = 0.15
# What the kernel sets where nobody else does.
_READAHEAD_KB = 128
_SECOND_NS = 1_000_000_000
_TOO_SLOW = "the node is too slow for the pre-flight check"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a certificate."""

    name: str
    status: str  # pass, warn, fail
    reason: str
    phase: str = ""  # where the time went, for a check of a window
    cause: str = ""

    @property
    def text(self) -> str:
        """Return name, reason, and where the time went."""
        where = f"{self.phase}.{self.cause}" if self.cause else self.phase
        return f"{self.name}: {self.reason}" + (f" [{where}]" if where else "")

    def to_json(self) -> dict[str, str]:
        """Return the plain form."""
        return asdict(self)


def judge(facts: Mapping[str, Any], baseline: Mapping[str, Any] | None = None) -> list[Check]:
    """Return all checks that the facts allow, the gravest first. `facts` are the measured part of a certificate."""
    checks = [
        *_judge_time(facts),
        *_judge_floors(facts["floors"]),
        *_judge_cold_storage(facts),
        *_judge_shares(facts["windows"]),
        *_judge_measures(facts),
        *_judge_memory(facts),
        *_judge_state(facts["state"]),
        _judge_readahead(facts),
        *_judge_read_limit(facts["state"], facts["floors"].get("disk_bytes_per_second", 0.0)),
        *_judge_evidence(facts["missing_sources"]),
        *(_judge_against(facts, baseline) if baseline is not None else ()),
    ]
    return sorted(checks, key=lambda one: _GRAVITY[one.status])


def overall(checks: list[Check]) -> str:
    """Return the gravest status."""
    return min((one.status for one in checks), key=lambda status: _GRAVITY[status], default=PASS)


def _judge_time(facts: Mapping[str, Any]) -> Iterator[Check]:
    """Fail a node on which a run had to be ended or left out, and name what it spent most time on in what it did."""
    for run in facts["not_done"]:
        yield Check(f"time, {run} run", FAIL, f"not done: time; {_TOO_SLOW}")
    for run in facts["unfinished"]:
        labels = ("later ttft", "warm load") if run == "warm" else ("cold load",)
        known = (window for label in labels if (window := facts["windows"].get(label)))
        window = next(known, {"phases": {}, "causes": {}})
        phase = max(window["phases"], key=lambda one: window["phases"][one], default="")
        reason = f"ended before it was done: time; {_TOO_SLOW}"
        yield Check(f"time, {run} run", FAIL, reason, phase, _largest_cause(window, phase))
    if not facts["unfinished"] and not facts["not_done"]:
        yield Check("time", PASS, "both runs answered enough requests in time")


def _judge_floors(floors: Mapping[str, float]) -> Iterator[Check]:
    limits = {  # warn below, fail below, what it is
        "disk_bytes_per_second": (_DISK_WARN, _DISK_FAIL, "storage", "the model's device delivers"),
        "memory_bytes_per_second": (1e9, 0.3e9, "allocator", "one thread copies memory at"),
        "h2d_bytes_per_second": (6e9, 2e9, "dma", "pinned memory reaches the GPU at"),
    }
    for name, (warn, fail, phase, words) in limits.items():
        if name in floors:
            status = FAIL if floors[name] < fail else WARN if floors[name] < warn else PASS
            shown, limit = (
                format_rate(int(one), _SECOND_NS) for one in (floors[name], fail if status == FAIL else warn)
            )
            yield Check(f"floor {name.partition('_bytes')[0]}", status, f"{words} {shown} (limit {limit})", phase)
    if "memory_bytes_per_second" not in floors:  # every node has one
        yield Check("floor memory", WARN, "not done: time", "allocator")


def _judge_cold_storage(facts: Mapping[str, Any]) -> Iterator[Check]:
    """Compare what a cold load waited for storage with what the device needs for the weights."""
    window, rate = facts["windows"].get("cold load"), facts["floors"].get("disk_bytes_per_second")
    if window is None or not rate:
        return
    floor_s, spent_s = facts["model_bytes"] / rate, window["phases"]["storage"] / 1e9
    # A cold load reads more than weights, in small pieces: seconds of that are no sickness.
    limits = ((FAIL, max(10 * floor_s, floor_s + 10)), (WARN, max(3 * floor_s, floor_s + 3)))
    status = next((status for status, limit_s in limits if spent_s > limit_s), PASS)
    reason = f"{spent_s:.2f} s on storage, {floor_s:.2f} s is what the device needs for the weights"
    yield Check("cold load storage", status, reason, "storage", _largest_cause(window, "storage"))


def _judge_shares(windows: Mapping[str, Any]) -> Iterator[Check]:
    """Judge the share of a window that a healthy node does not spend on this cause.

    Of contention it is the share of the whole window; of all else, of what is left beside it: a busy neighbour must not
    make any other fault look small.
    """
    rules: tuple[tuple[str, str, tuple[str, ...], float, float], ...] = (
        ("CPU contention", "scheduler", ("run_queue",), _CONTENTION_WARN, 0.4),
        ("CPU quota", "scheduler", ("cpu_throttled",), 0.02, 0.15),
        ("memory pressure", "allocator", ("reclaim", "compaction"), 0.05, 0.2),
        ("page cache", "storage", ("major_fault", "block_io_wait", "readahead_wait"), 0.1, 0.4),
    )
    for name, phase, causes, warn, fail in rules:
        for label in ("warm load", "later ttft"):
            window = windows.get(label)
            if window is None or not window["total_ns"]:
                continue
            ns = {cause: window["causes"].get(f"{phase}.{cause}", 0) for cause in causes}
            others_ns = 0 if "run_queue" in causes else window["causes"].get("scheduler.run_queue", 0)
            share = sum(ns.values()) / max(1, window["total_ns"] - others_ns)
            status = FAIL if share > fail else WARN if share > warn else PASS
            worst = max(causes, key=lambda cause: ns[cause])
            limit = 100 * (fail if status == FAIL else warn)
            beside = " beside its waits for a CPU" if others_ns else ""
            reason = f"{100 * share:.1f} % of the {label}{beside} (limit {limit:.0f} %)"
            yield Check(f"{name}, {label}", status, reason, phase, worst)


def _judge_measures(facts: Mapping[str, Any]) -> Iterator[Check]:
    measures = facts["measures"]
    drift = measures.get("rss_drift_bytes_per_request")
    if drift is not None:
        status = FAIL if drift > 16 << 20 else WARN if drift > 1 << 20 else PASS
        reason = f"resident memory grows by {format_bytes(int(drift))} a request (limit 1.00 MiB)"
        yield Check("RSS drift", status, reason, "allocator")
    spread = measures.get("ttft_spread")
    if spread is not None:
        slow, steady = (as_mapping(facts["windows"].get(name)) for name in (SLOW, "later ttft"))
        # Threads that spin for one whose CPU somebody took work as hard as ever: their time is the neighbour's too.
        waits_ns = slow["causes"].get("scheduler.run_queue", 0) if slow else 0
        is_contended = bool(waits_ns) and waits_ns > _CONTENTION_WARN * slow["total_ns"]
        status = FAIL if spread > 6 and not is_contended else WARN if spread > 2.5 else PASS
        where = _grown(slow, steady) if status != PASS else ("", "")
        reason = (
            f"one in four steady first tokens took {spread:.1f} times the median or more, beside waits for a CPU "
            "(limit 2.5)"
        )
        yield Check("steadiness", status, reason, *where)


def _judge_memory(facts: Mapping[str, Any]) -> Iterator[Check]:
    """Judge whether the weights, and a program around them, have the memory that they need."""
    memory, cgroup = (as_mapping(facts["state"].get(key)) for key in ("memory", "cgroup"))
    known = (memory.get("available_bytes"), cgroup.get("memory_max_bytes"), cgroup.get("memory_high_bytes"))
    available = min((one for one in known if isinstance(one, int)), default=None)
    if available is None:
        return
    model_bytes, n_reached = int(facts["model_bytes"]), int(facts["measures"].get("memory_limit_reached", 0))
    is_cgroup = available != known[0]
    is_short = available < 2 * model_bytes
    status = FAIL if available < model_bytes or (is_short and n_reached) else WARN if is_short else PASS
    of = "allowed by a cgroup" if is_cgroup else "available"
    reached = f", and the limit was met {n_reached} times" if is_cgroup and n_reached else ""
    reason = f"{format_bytes(available)} {of}, for weights of {format_bytes(model_bytes)}{reached}"
    yield Check("memory available", status, reason, "allocator")


def _judge_state(state: Mapping[str, Any]) -> Iterator[Check]:
    thp, cgroup, cpu = (as_mapping(state.get(key)) for key in ("thp", "cgroup", "cpu"))
    rules: tuple[tuple[str, bool, str, str], ...] = (
        (
            "huge pages",
            thp.get("enabled") == "always" and thp.get("defrag") == "always",
            f"transparent huge pages {thp.get('enabled')}, defrag {thp.get('defrag')}",
            "allocator",
        ),
        ("CPU governor", cpu.get("governor") == "powersave", f"governor {cpu.get('governor') or 'not shown'}", ""),
        (
            "cgroup CPUs",
            isinstance(limit := cgroup.get("cpu_limit_cpus"), int | float) and limit < 1,
            f"CPU limit {limit if limit is not None else 'none'}",
            "scheduler",
        ),
    )
    for name, is_bad, reason, phase in rules:
        yield Check(name, WARN if is_bad else PASS, reason, phase)


def _judge_readahead(facts: Mapping[str, Any]) -> Check:
    """Warn of a readahead below the kernel's own, and fail where weights came much slower than the device delivers."""
    sizes_kb = [one["read_ahead_kb"] for one in _devices(facts["state"]) if isinstance(one.get("read_ahead_kb"), int)]
    reason = f"readahead {f'{min(sizes_kb)} KiB' if sizes_kb else 'not shown'} (limit {_READAHEAD_KB} KiB)"
    if min(sizes_kb, default=_READAHEAD_KB) >= _READAHEAD_KB:
        return Check("readahead", PASS, reason, "storage")
    spent_s, rate = facts["measures"].get("cold_weights_read_s", 0.0), facts["floors"].get("disk_bytes_per_second")
    floor_s = facts["model_bytes"] / rate if rate else spent_s
    reason += f", weights were waited for {spent_s:.2f} s, {floor_s:.2f} s is what the device needs for them"
    # A second is what else a machine may lose on the way.
    is_slow = spent_s > max(3 * floor_s, floor_s + 1)
    return Check("readahead", FAIL if is_slow else WARN, reason, "storage")


def _judge_read_limit(state: Mapping[str, Any], measured: float) -> Iterator[Check]:
    """Judge what cgroups allow to be read from the weights' devices, however fast these are."""
    limits = [limit for device in _devices(state) for limit in _read_limits(device)]
    if not limits:
        yield Check("cgroup reads", PASS, "no limit on reads from the model's device", "storage")
        return
    limit = min(limits)
    is_met = measured > _NEAR_LIMIT * limit
    status = FAIL if limit < _DISK_FAIL else WARN if limit < _DISK_WARN or is_met else PASS
    shown = format_rate(int(limit), _SECOND_NS)
    met = ", and that is all that was measured" if is_met else ""
    yield Check("cgroup reads", status, f"a cgroup limits reads from the model's device to {shown}{met}", "storage")


def _devices(state: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the block devices of the weights, as far as they are known."""
    storage = state.get("storage")
    found = [as_mapping(as_mapping(one).get("device")) for one in storage] if isinstance(storage, list) else []
    return [device for device in found if device]


def _read_limits(device: Mapping[str, Any]) -> Iterator[float]:
    """Yield the limits on a device in bytes a second; of one on requests what the largest requests make of it."""
    rate, requests = device.get("read_limit_bytes_per_second"), device.get("read_limit_requests_per_second")
    if rate is not None:
        yield rate
    if requests is not None:
        yield requests * 1024 * (device.get("max_sectors_kb") or 512)


def _judge_evidence(missing: list[str]) -> Iterator[Check]:
    reason = f"without {', '.join(missing)}: coarser causes" if missing else "all sources recorded"
    yield Check("evidence", WARN if "ebpf" in missing else PASS, reason)


def _judge_against(facts: Mapping[str, Any], baseline: Mapping[str, Any]) -> Iterator[Check]:
    """Compare each number with the baseline's, and name the phase that grew where a window got longer."""
    pairs: tuple[tuple[str, tuple[str, ...], Callable[[float, float], float]], ...] = (
        ("measures", _LOWER_IS_BETTER, lambda now, before: now / before),
        ("measures", _HIGHER_IS_BETTER, lambda now, before: before / now),
        ("floors", tuple(facts["floors"]), lambda now, before: before / now),
    )
    windows = {"cold_load_real_s": "cold load", "warm_load_real_s": "warm load"}
    windows |= {"ttft_first_s": "first ttft", "ttft_steady_s": "later ttft"}
    for group, names, worse in pairs:
        for name in names:
            now, before = facts[group].get(name), baseline[group].get(name)
            if not now or not before:
                continue
            factor = worse(now, before)
            status = FAIL if factor > BASELINE_FAIL else WARN if factor > BASELINE_WARN else PASS
            now_window, before_window = (as_mapping(one["windows"].get(windows.get(name))) for one in (facts, baseline))
            phase, cause = _grown(now_window, before_window) if status != PASS else ("", "")
            reason = f"{before:.4g} -> {now:.4g}, {factor:.2f} times as bad (limit {BASELINE_WARN})"
            yield Check(f"baseline {name}", status, reason, phase, cause)


def _grown(now: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, str]:
    """Return the phase and the cause that make one window longer than another."""
    if not now or not before:
        return "", ""
    phase = max(now["phases"], key=lambda one: now["phases"][one] - before["phases"].get(one, 0))
    grown = {
        name: ns - before["causes"].get(name, 0) for name, ns in now["causes"].items() if name.startswith(f"{phase}.")
    }
    return phase, max(grown, key=lambda one: grown[one]).partition(".")[2] if grown else ""


def _largest_cause(window: Mapping[str, Any], phase: str) -> str:
    of_phase = {name: ns for name, ns in window["causes"].items() if name.startswith(f"{phase}.")}
    return max(of_phase, key=lambda one: of_phase[one]).partition(".")[2] if of_phase else ""
