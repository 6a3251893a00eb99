"""A stacked bar of phases that labels itself: every phase has its name in its own stretch, as far as it fits."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text

from ..model.taxonomy import Phase
from .summary import share_of

SHORT_NAMES = {
    Phase.STORAGE: "storage",
    Phase.ALLOCATOR: "alloc",
    Phase.DMA: "dma",
    Phase.KERNEL_WARMUP: "warm-up",
    Phase.SCHEDULER: "sched",
    Phase.COMPUTE: "compute",
    Phase.RUNTIME: "runtime",
    Phase.UNATTRIBUTED: "unattr.",
}
# The hues that the timeline has for them.
STYLES = {
    Phase.STORAGE: "#52afde",
    Phase.ALLOCATOR: "#e5a34e",
    Phase.DMA: "#eb66e1",
    Phase.KERNEL_WARMUP: "#d7446a",
    Phase.SCHEDULER: "#a882ea",
    Phase.COMPUTE: "#4cb45c",
    Phase.RUNTIME: "#a0b74c",
    Phase.UNATTRIBUTED: "#b08968",
}


def stacked_bar(phases: Mapping[Phase, int], width: int, *, color: bool) -> Text:
    """Draw a bar of `width` columns; each phase has its share of them, the largest remainders rounded up."""
    total = sum(phases.values())
    bar = Text()
    for phase, columns in _apportion(phases, total, width).items():
        label = _label(phase, share_of(phases[phase], total), columns - 1)
        if color:
            bar.append(f" {label}".ljust(columns)[:columns], style=f"black on {STYLES[phase]}")
        else:
            bar.append(("│" + (label + " " if label else "")).ljust(columns, "━")[:columns])
    return bar


def _label(phase: Phase, share: str, room: int) -> str:
    for candidate in (f"{phase.label} {share}", f"{SHORT_NAMES[phase]} {share}", SHORT_NAMES[phase]):
        if len(candidate) <= room:
            return candidate
    return ""


def _apportion(phases: Mapping[Phase, int], total: int, width: int) -> dict[Phase, int]:
    """Share out the columns by the largest remainder, so that they always add up."""
    present = {phase: phases[phase] for phase in Phase if phases.get(phase, 0) > 0}
    if not present:
        return {}
    columns = {phase: ns * width // total for phase, ns in present.items()}
    by_remainder = sorted(present, key=lambda phase: (-(present[phase] * width % total), phase))
    for phase in by_remainder[: width - sum(columns.values())]:
        columns[phase] += 1
    return {phase: n for phase, n in columns.items() if n}
