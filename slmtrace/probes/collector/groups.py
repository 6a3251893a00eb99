"""Which programs there are, what each is attached to, and what the kernel must have for it.

One group answers one question and lives in one ebpf/<group>.bpf.c. A group that cannot run leaves the others alone.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ...capture.layout import SPIN_PERIOD_NS
from .btf import Btf
from .tracefs import field_offsets

RAW, TRACEPOINT, SOFTWARE, CLOCK = "raw", "tracepoint", "software", "clock"
# enum perf_sw_ids in include/uapi/linux/perf_event.h
PAGE_FAULTS, PAGE_FAULTS_MIN, PAGE_FAULTS_MAJ = "2", "5", "6"
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")


class Program(NamedTuple):
    """One BPF function and where it is attached; a clock's target is its period in ns."""

    function: str
    kind: str
    target: str
    is_optional: bool = False


class Group(NamedTuple):
    """What one question takes on this kernel: its programs and macros, or the reason why it cannot be asked."""

    name: str
    programs: tuple[Program, ...] = ()
    macros: Mapping[str, int] = MappingProxyType({})
    reason: str = ""
    limits: tuple[str, ...] = ()  # what it cannot tell here


Has = Callable[..., bool]  # whether the kernel has all these raw tracepoints

GROUP_NAMES = ("tree", "sched", "faults", "http", "syscalls", "files", "block", "memory", "spin", "malloc", "cuda")

# Entry and exit of what interrupts a task, and whether this machine should have it.
_INTERRUPTS = (
    (
        Program("on_softirq_entry", RAW, "softirq_entry", True),
        Program("on_softirq_exit", RAW, "softirq_exit", True),
        True,
    ),
    (
        Program("on_irq_entry", RAW, "irq_handler_entry", True),
        Program("on_irq_exit", RAW, "irq_handler_exit", True),
        True,
    ),
    (
        Program("on_timer_entry", RAW, "local_timer_entry", True),
        Program("on_timer_exit", RAW, "local_timer_exit", True),
        platform.machine() == "x86_64",
    ),
)
_FILE_EVENTS = {
    "filemap:mm_filemap_fault": ("on_filemap_fault", ("s_dev", "i_ino")),
    "filemap:mm_filemap_add_to_page_cache": ("on_filemap_add", ("s_dev", "i_ino")),
    "filemap:mm_filemap_map_pages": ("on_filemap_map_pages", ("s_dev", "i_ino")),
    "filemap:mm_filemap_get_pages": ("on_filemap_get_pages", ("s_dev", "i_ino")),
}
_REQUIRED_FILE_EVENTS = ("mm_filemap_fault", "mm_filemap_add_to_page_cache")
_MEMORY_EVENTS = {
    "compaction:mm_compaction_begin": ("on_compaction_begin", ()),
    "compaction:mm_compaction_end": ("on_compaction_end", ("status",)),
    "vmscan:mm_vmscan_direct_reclaim_begin": ("on_reclaim_begin", ("order",)),
    "vmscan:mm_vmscan_direct_reclaim_end": ("on_reclaim_end", ("nr_reclaimed",)),
    # A cgroup at its limit reclaims on its own account (try_to_free_mem_cgroup_pages() in mm/vmscan.c).
    "vmscan:mm_vmscan_memcg_reclaim_begin": ("on_cgroup_reclaim_begin", ("order",)),
    "vmscan:mm_vmscan_memcg_reclaim_end": ("on_cgroup_reclaim_end", ("nr_reclaimed",)),
    "vmscan:mm_vmscan_kswapd_wake": ("on_kswapd_wake", ("order",)),
    "vmscan:mm_vmscan_kswapd_sleep": ("on_kswapd_sleep", ()),
    "migrate:mm_migrate_pages": ("on_migrate_pages", ("succeeded", "failed", "mode", "reason")),
    "huge_memory:mm_khugepaged_scan_pmd": ("on_khugepaged_scan", ("status",)),
}
_OPTIONAL_MEMORY_EVENTS = ("mm_vmscan_memcg_reclaim_begin", "mm_vmscan_memcg_reclaim_end", "mm_khugepaged_scan_pmd")


def plan_groups(
    btf: Btf, tracefs: Path, wanted: tuple[str, ...], avoid: tuple[str, ...] = (), is_for_another: bool = False
) -> list[Group]:
    """Say for each group how it runs on this kernel: http, malloc and cuda only if they are among those `wanted`.

    `avoid` names tracepoints to do without (for tests). For another user, programs that run with more rights than that
    user's are not followed.
    """

    def arguments(name: str) -> int:
        return -1 if name in avoid else _or(btf.tracepoint_arguments(name), -1)

    def has(*names: str) -> bool:
        return all(arguments(name) >= 0 for name in names)

    groups = [
        _plan_tree(btf, is_for_another),
        _plan_sched(btf, has, arguments("sched_switch")),
        _plan_faults(has),
        _plan_raw("syscalls", {"on_sys_enter": "sys_enter", "on_sys_exit": "sys_exit"}, has),
        _plan_events("files", _FILE_EVENTS, _REQUIRED_FILE_EVENTS, tracefs),
        _plan_block(btf, has),
        _plan_events("memory", _MEMORY_EVENTS, _without(_MEMORY_EVENTS, _OPTIONAL_MEMORY_EVENTS), tracefs),
        _plan_spin(),
    ]
    if "http" in wanted:
        groups.append(_plan_http(has))
    # Their programs are attached to functions of libraries, when those are known.
    probe_syscall = {"PROBE_SYSCALL": 335} if platform.machine() == "x86_64" else {}  # uretprobe, then uprobe
    groups += [Group(name, macros=probe_syscall) for name in ("malloc", "cuda") if name in wanted]
    return groups


def huge_page_bytes() -> int:
    """Return the size of a huge page, or 0 if the kernel makes none by itself."""
    try:
        is_off = "[never]" in (_HUGE_PAGES / "enabled").read_text()
        return 0 if is_off else int((_HUGE_PAGES / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return 0


def common_macros(page_bytes: int) -> dict[str, int]:
    """Return the macros that are no group's own."""
    huge = huge_page_bytes()
    macros = {"PAGE_BYTES": page_bytes, "HUGE_PAGE_BYTES": huge or page_bytes}
    if huge:
        macros["HUGE_PAGE_ORDER"] = (huge // page_bytes).bit_length() - 1
    return macros


def argument_offsets() -> tuple[int, ...]:
    """Return where in struct pt_regs the first four arguments of a system call lie (arch/*/include/asm/ptrace.h)."""
    if platform.machine() == "aarch64":
        return 272, 8, 16, 24  # orig_x0, for x0 holds the result by then
    return 112, 104, 96, 56


def _plan_tree(btf: Btf, is_for_another: bool) -> Group:
    task, memory = btf.member_bits("task_struct"), btf.member_bits("mm_struct")
    if not {"pid", "tgid", "exit_code"} <= set(task) or (is_for_another and not ("mm" in task and "flags" in memory)):
        return Group("tree", reason="the kernel's BTF does not describe task_struct and mm_struct")
    programs = (
        Program("on_fork", RAW, "sched_process_fork"),
        Program("on_exec", RAW, "sched_process_exec"),
        Program("on_exit", RAW, "sched_process_exit"),
    )
    macros = {f"OFF_task_{name}": task[name] // 8 for name in ("pid", "tgid", "exit_code")}
    if is_for_another:
        macros |= {"OFF_task_mm": task["mm"] // 8, "OFF_mm_flags": memory["flags"] // 8}
    return Group("tree", programs, macros)


def _plan_sched(btf: Btf, has: Has, n_switch_arguments: int) -> Group:
    task = btf.member_bits("task_struct")
    entity = btf.member_bits("sched_entity")
    if not {"in_iowait", "se"} <= set(task) or "sum_exec_runtime" not in entity:
        return Group("sched", reason="the kernel's BTF does not describe task_struct and sched_entity")
    macros = {
        "OFF_task_in_iowait": task["in_iowait"] // 8,
        "BIT_task_in_iowait": task["in_iowait"] % 8,
        "OFF_task_exec": (task["se"] + entity["sum_exec_runtime"]) // 8,
    }
    if n_switch_arguments < 4:  # the previous task's state is an argument since Linux 5.18
        state = task.get("__state", task.get("state"))
        if state is None:
            return Group("sched", reason="the kernel's BTF does not describe the state of a task")
        macros["OFF_task_state"] = state // 8
    programs = [Program("on_switch", RAW, "sched_switch"), Program("on_waking", RAW, "sched_waking")]
    limits = []
    for entry, leave, is_expected in _INTERRUPTS:
        if has(entry.target, leave.target):
            programs += [entry, leave]
        elif is_expected:
            limits.append(f"no {entry.target}: some wakeups by interrupts look like wakeups by tasks")
    return Group("sched", tuple(programs), macros, limits=tuple(limits))


def _plan_faults(has: Has) -> Group:
    programs = [
        Program("on_fault_minor", SOFTWARE, PAGE_FAULTS_MIN),
        Program("on_fault_major", SOFTWARE, PAGE_FAULTS_MAJ),
    ]
    limits = []
    if has("page_fault_user", "page_fault_kernel"):
        programs.append(Program("on_fault_user", RAW, "page_fault_user"))
        programs.append(Program("on_fault_kernel", RAW, "page_fault_kernel"))
    else:
        programs.append(Program("on_fault_software", SOFTWARE, PAGE_FAULTS))
        limits.append("no page fault tracepoints: whether a fault was a write is unknown")
    if huge_page_bytes():
        if has("mm_page_alloc"):
            programs.append(Program("on_page_alloc", RAW, "mm_page_alloc", True))
        else:
            limits.append("no mm_page_alloc: huge page faults look like ordinary ones")
    return Group("faults", tuple(programs), limits=tuple(limits))


def _plan_block(btf: Btf, has: Has) -> Group:
    macros = {}
    for name, struct, member in (
        ("OFF_request_q", "request", "q"),
        ("OFF_request_sector", "request", "__sector"),
        ("OFF_request_data_len", "request", "__data_len"),
        ("OFF_request_cmd_flags", "request", "cmd_flags"),
        ("OFF_request_queue_disk", "request_queue", "disk"),
        ("OFF_gendisk_major", "gendisk", "major"),
        ("OFF_gendisk_first_minor", "gendisk", "first_minor"),
    ):
        bits = btf.member_bits(struct).get(member)
        if bits is None:
            return Group("block", reason=f"the kernel's BTF does not describe {struct}.{member} (Linux before 5.16?)")
        macros[name] = bits // 8
    by_start = {"on_block_start": "block_io_start", "on_block_done": "block_io_done"}
    if has(*by_start.values()):
        return _plan_raw("block", {**by_start, "on_block_merge": "block_rq_merge"}, has, macros)
    by_issue = {"on_block_start": "block_rq_issue", "on_block_done": "block_rq_complete"}
    return _plan_raw("block", by_issue, has, {**macros, "BLOCK_BY_ISSUE": 1})


def _plan_raw(name: str, targets: dict[str, str], has: Has, macros: Mapping[str, int] = MappingProxyType({})) -> Group:
    if not has(*targets.values()):
        return Group(name, reason=f"this kernel has no tracepoints {' and '.join(targets.values())}")
    return Group(name, tuple(Program(function, RAW, target) for function, target in targets.items()), macros)


def _plan_spin() -> Group:
    if platform.machine() != "x86_64":
        return Group("spin", reason="spin loops are recognised by an instruction of x86-64")
    clock = Program("on_clock", CLOCK, str(SPIN_PERIOD_NS))
    return Group("spin", (clock,), {"SPIN_PERIOD_NS": SPIN_PERIOD_NS})


def _plan_http(has: Has) -> Group:
    """It has no programs of its own: system calls that return are shown to it."""
    if not has("sys_enter", "sys_exit"):
        return Group("http", reason="this kernel has no tracepoints sys_enter and sys_exit")
    offsets = argument_offsets()
    return Group("http", macros={f"OFF_syscall_argument_{index}": offsets[index] for index in range(3)})


def _plan_events(
    name: str, events: Mapping[str, tuple[str, tuple[str, ...]]], required: tuple[str, ...], tracefs: Path
) -> Group:
    programs, macros, limits = [], {}, []
    for event, (function, wanted) in events.items():
        short = event.split(":")[1]
        offsets = field_offsets(tracefs, event)
        if not offsets or not set(wanted) <= set(offsets):
            if short in required:
                return Group(name, reason=f"this kernel has no tracepoint {event}, or tracefs is not readable")
            limits.append(f"no {short}")
            continue
        macros.update({f"OFF_{short}_{field}": offset for field, offset in offsets.items()})
        programs.append(Program(function, TRACEPOINT, event, short not in required))
    return Group(name, tuple(programs), macros, limits=tuple(limits))


def _without(events: Mapping[str, tuple[str, tuple[str, ...]]], names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(short for short in (event.split(":")[1] for event in events) if short not in names)


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value
