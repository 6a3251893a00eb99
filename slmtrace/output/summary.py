"""What a reader sees first: which windows, stages and causes, and one-line facts. Shared by text and Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model.percentiles import Percentile, ttft_percentiles
from ..model.report import BATCH_OTHERS, CauseShare, Report, StageShare, WindowReport
from ..model.taxonomy import CAUSES, Phase, WindowKind
from ..units import format_bytes, format_count, format_ns
from .plain import plain, shorten_path

_MAX_COSTS = 4
_TOLD, _TOLD_ALONE = 0.05, 0.01  # of a cause's time, a list of names and one of them
_WHAT = ("files", "packages", "holders", "functions", "kernels")
DETAIL_LISTS = (*_WHAT, "ranges", "processes")  # what a cause's time was spent on, and inside of what


@dataclass(frozen=True, slots=True)
class ShownWindow:
    """A window under the name by which the summary shows it."""

    label: str
    window: WindowReport
    note: str = ""


def shown_windows(report: Report) -> list[ShownWindow]:
    """Return the load, the first request, and of the later requests the one with the median total."""
    loads = [ShownWindow(one.label, one, plain(one.note)) for one in report.windows if one.kind is WindowKind.LOAD]
    requests = [window for window in report.windows if window.kind is WindowKind.TTFT]
    if len(requests) < 2 or requests[0].index != 0:
        return loads + [ShownWindow(one.label, one, plain(one.note)) for one in requests]
    first, *later = requests
    by_total = sorted(later, key=lambda window: (window.total_ns, window.index))
    median = by_total[(len(by_total) - 1) // 2]
    note = ""
    if len(later) > 1:
        low, high = format_ns(by_total[0].total_ns), format_ns(by_total[-1].total_ns)
        note = f"the median of {len(later)} requests, {low} to {high}"
    return [
        *loads,
        ShownWindow("first ttft", first, plain(first.note)),
        ShownWindow("later ttft", median, note or plain(median.note)),
    ]


def is_attached(report: Report) -> bool:
    """Say whether a process was recorded that ran already: nothing in it told of stages."""
    return report.capture.get("engine") == "attach"


def why_no_window(report: Report) -> str:
    """Return why a report has no window."""
    if is_attached(report):
        if any(source.name == "ebpf" and source.status == "unavailable" for source in report.sources):
            return "the requests of a running process are told by eBPF, which did not record"
        return "no plain HTTP/1 POST was answered with success while it was watched"
    return "the target neither got ready nor ended while it was watched"


def percentiles(report: Report) -> list[Percentile]:
    """Return the percentiles of the report's requests."""
    return ttft_percentiles(report.windows)


def for_others(window: WindowReport) -> str:
    """Return how much of the window shared steps spent on tokens of other requests; '' for nothing."""
    rows = [row for share in window.causes for row in detail_rows(share, "batch")]
    others_ns = sum(row["ns"] for row in rows if row["name"] == BATCH_OTHERS)
    return f"{format_ns(others_ns)} of it for {BATCH_OTHERS}" if others_ns else ""


def top_causes(window: WindowReport, limit: int, min_share: float = 0.02) -> list[CauseShare]:
    """Return the largest causes, the largest first, without those below a share of the window."""
    ranked = sorted(window.causes, key=lambda share: (-share.ns, share.cause))
    worth_a_line = [share for share in ranked if share.ns >= min_share * window.total_ns]
    return (worth_a_line or ranked)[:limit]


def top_stages(window: WindowReport, limit: int) -> tuple[list[StageShare], list[StageShare]]:
    """Return the largest stages in the order of the engine's work, and those left out."""
    ranked = sorted(window.stages, key=lambda share: (-share.ns, share.stage))
    chosen = ranked[:limit] if len(ranked) > limit + 1 else ranked
    return sorted(chosen, key=lambda share: share.stage), ranked[len(chosen) :]


def shown_phases(windows: list[WindowReport]) -> list[Phase]:
    """Return the phases that any of the windows spent time in."""
    return [phase for phase in Phase if any(window.phases.get(phase, 0) for window in windows)]


def where(share: CauseShare, limit: int) -> str:
    """Return the names that a cause's time was spent on, as many as fit; without any, what the cause means.

    Names that explain next to nothing of the time are left out.
    """
    rate = _integer(share.detail.get("bytes_per_second"))
    names = [f"{rate / 1e9:.3g} GB/s"] if rate else []
    for key in _WHAT:
        rows = detail_rows(share, key)
        if sum(row["ns"] for row in rows) >= _TOLD * share.ns:
            names += [shorten_path(row["name"], limit) for row in rows if row["ns"] >= _TOLD_ALONE * share.ns]
    if not names:
        return clip(CAUSES[share.cause].meaning, limit)
    shown = names[0]
    for number, name in enumerate(names[1:], start=1):
        more = f", {name}"
        left = len(names) - number - 1
        if len(shown + more) + (len(f" +{left}") if left else 0) > limit:
            rest = f" +{len(names) - number}"
            return shown + rest if len(shown + rest) <= limit else shown
        shown += more
    return shown


def detail_rows(share: CauseShare, key: str) -> list[dict[str, Any]]:
    """Return a detail list's rows as {"name", "ns", "count", "bytes"}; what is malformed is left out."""
    rows = share.detail.get(key, [])
    return [
        {"name": plain(row["name"]), **{field: _integer(row.get(field)) for field in ("ns", "count", "bytes")}}
        for row in (rows if isinstance(rows, list) else [])
        if isinstance(row, Mapping) and row.get("name")
    ]


def node_facts(report: Report) -> list[str]:
    """Return what was recorded where: engine, model, tier, kernel, size of the machine."""
    capture, host = report.capture, as_mapping(report.capture.get("host"))
    facts = [" ".join(plain(capture[key]) for key in ("engine", "engine_version") if capture.get(key))]
    facts += [plain(capture["model"])] if capture.get("model") else []
    facts += [f"{plain(capture['tier'])} tier"] if capture.get("tier") else []
    facts += [f"Linux {plain(host['kernel'])}"] if host.get("kernel") else []
    facts += [f"{plain(host['cpus'])} CPUs"] if host.get("cpus") else []
    facts += [format_bytes(_integer(host["memory_bytes"]))] if host.get("memory_bytes") else []
    return [fact for fact in facts if fact]


def state_facts(report: Report) -> list[str]:
    """Return the state of the node that matters most to a first token."""
    facts = []
    fraction = state_before(report, "page_cache").get("resident_fraction")
    if isinstance(fraction, int | float):
        facts.append(f"weights {100 * fraction:.3g} % cached before")
    thp = state_before(report, "thp")
    if thp.get("enabled"):
        facts.append(f"huge pages {plain(thp['enabled'])}")
    allocator = state_before(report, "allocator").get("name", "libc")
    if allocator != "libc":
        facts.append(f"allocator {plain(allocator)}")
    return facts


def state_before(report: Report, topic: str) -> Mapping[str, Any]:
    """Return what the certificate says of a topic before the run, or at all."""
    found = as_mapping(report.state.get(topic))
    return as_mapping(found["before"]) if "before" in found else found


def trouble(report: Report) -> list[str]:
    """Return what makes the report less than it could be: an unfinished recording, losses, doubtful data."""
    lines = []
    status = plain(report.capture.get("status", "complete"))
    if status != "complete":
        lines.append(f"the recording is {status}: it did not end by itself")
    for line in report.ledger:
        lost = {plain(cause): _integer(n) for cause, n in as_mapping(line.get("lost")).items() if _integer(n)}
        if lost:
            causes = ", ".join(f"{format_count(n)} {cause}" for cause, n in sorted(lost.items()))
            lines.append(f"{plain(line.get('source'))} lost records: {causes}")
    return lines + [plain(line) for line in report.quality]


def sources_recorded(report: Report) -> list[str]:
    """Return the sources that recorded something."""
    return [
        plain(one.name) if one.status == "ok" else f"{plain(one.name)} in part ({plain(one.reason)})"
        for one in report.sources
        if one.status != "unavailable"
    ]


def sources_missing(report: Report) -> list[str]:
    """Return the sources that could not record, with the reason."""
    return [f"{plain(one.name)} ({plain(one.reason)})" for one in report.sources if one.status == "unavailable"]


def cost(report: Report) -> str:
    """Return what recording itself cost, by window; '' when it is not known."""
    parts = []
    for window in report.overhead.get("windows", []):
        if isinstance(window, Mapping) and isinstance(window.get("share"), int | float):
            index = f" {_integer(window.get('index'))}" if window.get("name") == WindowKind.TTFT.label else ""
            parts.append(f"{100 * float(window['share']):.2g} % of {plain(window.get('name'))}{index}")
    return ", ".join(parts[:_MAX_COSTS])


def share_of(part_ns: int, whole_ns: int) -> str:
    """Return a share without decimals: '59 %', '<1 %'."""
    if 0 < part_ns < whole_ns / 100:
        return "<1 %"
    return f"{round(100 * part_ns / whole_ns) if whole_ns else 0} %"


def clip(text: str, limit: int) -> str:
    """Cut a text to `limit` characters, with an ellipsis."""
    return text if len(text) <= limit else text[: max(limit - 1, 0)].rstrip() + "…"


def cause_cells(share: CauseShare, window: WindowReport) -> tuple[str, str, str, str, str]:
    """Return a cause's name, time, share, count and bytes as text."""
    return (
        f"{share.cause.phase.label}.{share.cause.label}",
        format_ns(share.ns),
        share_of(share.ns, window.total_ns),
        format_count(share.count),
        format_bytes(share.size_bytes) if share.size_bytes else "-",
    )


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping as it is, and anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}


def _integer(value: object) -> int:
    # Not a number fails the comparison too.
    return int(value) if isinstance(value, int | float) and abs(value) < 1 << 63 else 0
