"""Rules about reading files: a device that is held back, slow or asked in small pieces, and what was not in memory."""

from __future__ import annotations

from typing import Any

from ...model.taxonomy import Cause, Stage
from ...units import format_bytes, format_count, format_ns, format_rate
from ..case import Case
from ..facts import DEVICE_WAITS
from ..floors import device_floor_ns
from ..rule import Claim, Rule

# The default of Linux (VM_READAHEAD_PAGES): less was chosen by somebody.
_DEFAULT_READ_AHEAD_KB = 128
# Reads of this size and more go at the rate of any device, whatever its latency.
_LARGE_READ_BYTES = 64 << 10
_MIN_BYTES = 16 << 20
_MIN_OTHERS_BYTES = 64 << 20
# A rate that every disk of the last ten years reaches on large reads.
_SLOW_BYTES_PER_SECOND = 100e6
# Looking for files takes a healthy load of Python programs 1.3 to 2.1 % (the clean runs of tools/accuracy).
_USUAL_LOOKUPS = 0.02
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_PAGE_BYTES = 4096


def _network(case: Case) -> Claim | None:
    kinds = [one.get("filesystem") for one in _storage(case) if one.get("is_network")]
    waits_ns, size_bytes = case.left((*DEVICE_WAITS, Cause.EXTERNAL), (Stage.WEIGHTS,)), case.size_bytes(*DEVICE_WAITS)
    if not kinds or not size_bytes:
        return None
    return Claim(
        waits_ns,
        f"waited {format_ns(waits_ns)} for weights on {kinds[0]}, a network file system",
        "copy the weights to a local disk or to /dev/shm before the start, and load them from there",
        waits_ns - device_floor_ns(case, size_bytes),
        "medium",
    )


def _throttled(case: Case) -> Claim | None:
    """A request that the block layer holds back has not been started: the task waits, and nothing is in flight."""
    device, waits_ns = case.facts.device, case.left(DEVICE_WAITS)
    if device.size_bytes < _MIN_BYTES:
        return None
    return Claim(
        device.idle_wait_ns,
        f"waited {format_ns(waits_ns)} for {format_bytes(device.size_bytes)}, and for {format_ns(device.idle_wait_ns)} "
        "of it no device had a read to do: the reads were held back before it",
        "lift the I/O limit of the cgroup: echo 'MAJOR:MINOR rbps=max riops=max' > io.max "
        "(version 1: echo 'MAJOR:MINOR 0' > blkio.throttle.read_bps_device)",
    )


def _readahead(case: Case) -> Claim | None:
    device, waits_ns = case.facts.device, case.left(DEVICE_WAITS)
    known = [one["device"] for one in _storage(case) if one.get("device")]
    small = [one for one in known if (one.get("read_ahead_kb") or _DEFAULT_READ_AHEAD_KB) < _DEFAULT_READ_AHEAD_KB]
    small += [one for one in known if one.get("read_ahead_kb") == 0]
    if not small or device.size_bytes < _MIN_BYTES or device.mean_bytes >= _LARGE_READ_BYTES:
        return None
    # A read of 1 MiB takes about as long as two of the smallest.
    floor_ns = device_floor_ns(case, device.size_bytes) or 2 * device.latency_ns * (device.size_bytes >> 20)
    return Claim(
        waits_ns - floor_ns,
        f"{format_count(device.n_reads)} reads of {format_bytes(device.mean_bytes)} on average: readahead of "
        f"{small[0]['name']} is {small[0]['read_ahead_kb']} KiB",
        f"blockdev --setra 8192 /dev/{small[0]['name']}",
        confidence="medium",
    )


def _slow_device(case: Case) -> Claim | None:
    device, waits_ns = case.facts.device, case.left(DEVICE_WAITS)
    if device.size_bytes < _MIN_BYTES or not device.busy_ns:
        return None
    measured = case.number("floors", "disk_bytes_per_second")
    floor_ns = round(device.size_bytes / (measured or _SLOW_BYTES_PER_SECOND) * 1e9)
    is_large = device.mean_bytes >= _LARGE_READ_BYTES
    if not is_large or device.busy_ns < 2 * floor_ns:
        return None
    basis = "measured on this device" if measured else "what any disk does"
    return Claim(
        waits_ns - floor_ns,
        f"the device gave {format_rate(device.size_bytes, device.busy_ns)}, and "
        f"{format_rate(device.size_bytes, floor_ns)} is {basis}",
        "look for who else uses it (iostat -x 1), and for a limit of the volume; or move the weights to a faster disk",
        confidence="high" if measured else "medium",
    )


def _dropped_while_idle(case: Case) -> Claim | None:
    """Earlier requests had all that a later one needs in memory: what it reads again was dropped since."""
    waits_ns, size_bytes = case.left(DEVICE_WAITS), case.size_bytes(*DEVICE_WAITS)
    if not case.is_steady or not size_bytes or not case.idle_ns:
        return None
    most = case.largest("files", DEVICE_WAITS).rpartition("/")[2]
    return Claim(
        waits_ns,
        f"after {format_ns(case.idle_ns)} without a request, waited {format_ns(waits_ns)} for "
        f"{format_bytes(size_bytes)} that had been dropped from memory" + (f", most of all of {most}" if most else ""),
        "keep the weights in memory: vmtouch -dl FILES, and memory.low of the cgroup above them; "
        "or have a health check generate a token now and then",
    )


def _fault_bound(case: Case) -> Claim | None:
    """A thread that waits for one small piece of a mapped file after the other: the device has no queue to work on."""
    share = case.share(Cause.MAJOR_FAULT)
    waits = _waits_by_file(case, of_weights=True)
    rows = [row for row in share.detail.get("files", []) if row["name"] in waits]
    waits_ns, size_bytes, n_faults = (sum(int(row[key]) for row in rows) for key in ("ns", "bytes", "count"))
    if size_bytes < _MIN_BYTES or not n_faults or size_bytes >= n_faults * _LARGE_READ_BYTES:
        return None
    floor_ns = device_floor_ns(case, size_bytes) or 2 * case.facts.device.latency_ns * (size_bytes >> 20)
    return Claim(
        min(waits_ns, case.left((Cause.MAJOR_FAULT,))) - floor_ns,
        f"weights came by page faults on their mapping, one after the other: {format_count(n_faults)} faults waited "
        f"{format_ns(waits_ns // n_faults)} each, for {format_bytes(size_bytes // n_faults)}",
        "read the files ahead of the start (cat FILES > /dev/null), or load without mmap (vLLM: "
        "--safetensors-load-strategy eager; SGLang: --weight-loader-disable-mmap; llama.cpp: --no-mmap)",
        confidence="medium",
    )


def _shared_device(case: Case) -> Claim | None:
    """What went to and from the device beside what the tree brought into the page cache was for somebody else."""
    device, own_bytes, waits_ns = case.facts.device, case.size_bytes(*DEVICE_WAITS), case.left(DEVICE_WAITS)
    others_bytes = device.size_bytes + device.written_bytes - own_bytes
    if not own_bytes or others_bytes < max(own_bytes, _MIN_OTHERS_BYTES):
        return None
    return Claim(
        round(waits_ns * others_bytes / (others_bytes + own_bytes)),
        f"waited {format_ns(waits_ns)} for {format_bytes(own_bytes)} while the devices moved "
        f"{format_bytes(others_bytes)} for others",
        "find who else uses the disk (iotop -o, pidstat -d 1), and give it a lower priority: ionice -c 3, or io.max",
        confidence="medium",
    )


def _swapped(case: Case) -> Claim | None:
    n_pages = case.facts.grown.get("vmstat pswpin", 0)
    size_bytes = n_pages * _PAGE_BYTES
    if size_bytes < _MIN_BYTES:
        return None
    waits_ns = case.left(DEVICE_WAITS)
    part_ns = round(waits_ns * min(1.0, size_bytes / max(case.facts.device.size_bytes, size_bytes)))
    return Claim(
        part_ns,
        f"{format_bytes(size_bytes)} came back from swap",
        "free memory on the node, or swapoff -a before serving",
        confidence="medium",
    )


def _cold_weights(case: Case) -> Claim | None:
    """Weights are read while they are loaded; those that are mapped, in part by the first forward pass."""
    weights_ns = sum(_waits_by_file(case, of_weights=True).values())
    waits_ns = max(case.left(DEVICE_WAITS, (Stage.WEIGHTS,)), min(weights_ns, case.left(DEVICE_WAITS)))
    fraction = case.known("page_cache", "resident_fraction")
    read_bytes = case.size_bytes(*DEVICE_WAITS)
    if not read_bytes or not waits_ns:
        return None
    cached = f", {100 * fraction:.0f} % of the weights were in memory before" if isinstance(fraction, float) else ""
    return Claim(
        waits_ns,
        f"waited {format_ns(waits_ns)} for weights from the device{cached}",
        "keep them in memory: vmtouch -dl FILES; or read them ahead of the start: cat FILES > /dev/null",
        confidence="high" if isinstance(fraction, float) and fraction < 0.9 else "medium",
    )


def _waits_by_file(case: Case, *, of_weights: bool) -> dict[str, int]:
    """Return how long a window waited for weight files, known before the start or looking like one; or for others."""
    known = {file["name"] for file in case.known("page_cache", "files") or ()}
    names = {str(row["name"]) for cause in DEVICE_WAITS for row in case.share(cause).detail.get("files", [])}
    weights = {name for name in names if name.rpartition("/")[2] in known or name.endswith(_WEIGHT_SUFFIXES)}
    return {name: case.ns_of("files", name, DEVICE_WAITS) for name in (weights if of_weights else names - weights)}


def _cold_code(case: Case) -> Claim | None:
    if not case.size_bytes(*DEVICE_WAITS):
        return None
    # Weights that were too little for a finding of their own are still none of this one's.
    claimed_ns = sum(case.share(cause).ns for cause in DEVICE_WAITS) - case.left(DEVICE_WAITS)
    weights_ns = sum(_waits_by_file(case, of_weights=True).values())
    waits_ns = case.left(DEVICE_WAITS) - max(weights_ns - claimed_ns, 0)
    others = _waits_by_file(case, of_weights=False)
    most = f", most of all for {max(others, key=others.__getitem__).rpartition('/')[2]}" if others else ""
    return Claim(
        waits_ns,
        f"waited {format_ns(waits_ns)} for files from the device other than weights{most}",
        "read the program's files ahead of the start: vmtouch -t DIRECTORY (site-packages and the model's)",
    )


def _lookups(case: Case) -> Claim | None:
    calls_ns, search_ns = case.left((Cause.OPEN_STAT,)), case.facts.searched_ns
    count, name = case.count(Cause.OPEN_STAT), case.largest("functions", (Cause.OPEN_STAT,))
    search = f", and Python's own search around them {format_ns(search_ns)}" if search_ns else ""
    return Claim(
        calls_ns + search_ns - round(_USUAL_LOOKUPS * case.total_ns),
        f"{format_count(count)} calls to find and open files took {format_ns(calls_ns)}"
        + (f" ({name})" if name else "")
        + search,
        "shorten sys.path and the directories on it: a small virtual environment of the program's own, on a local disk",
        confidence="medium",
    )


def _storage(case: Case) -> list[dict[str, Any]]:
    found = case.known("storage")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


RULES = (
    Rule("network_weights", (*DEVICE_WAITS, Cause.EXTERNAL), _network, (Stage.WEIGHTS,)),
    Rule("io_throttled", DEVICE_WAITS, _throttled),
    Rule("small_readahead", DEVICE_WAITS, _readahead),
    Rule("dropped_while_idle", DEVICE_WAITS, _dropped_while_idle),
    Rule("fault_bound_weights", (Cause.MAJOR_FAULT,), _fault_bound),
    Rule("shared_device", DEVICE_WAITS, _shared_device),
    Rule("slow_device", DEVICE_WAITS, _slow_device),
    Rule("swapped_out", DEVICE_WAITS, _swapped),
    Rule("cold_weights", DEVICE_WAITS, _cold_weights),
    Rule("cold_files", DEVICE_WAITS, _cold_code),
    Rule("many_lookups", (Cause.OPEN_STAT, Cause.IMPORT), _lookups, is_work=True),
)
