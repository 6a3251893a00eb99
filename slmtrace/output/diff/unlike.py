"""What two recordings do not have in common besides their times: said first, as it may explain all that moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...model.report import Report
from ..plain import plain
from ..summary import as_mapping, state_before

# Page-cache residencies closer than this are called alike.
_LIKE_FRACTION = 0.1
_CAPTURE_FACTS = {"engine": "engine", "engine_version": "engine version", "model": "model", "tier": "tier"}
_HOST_FACTS = {
    "kernel": "kernel",
    "cpu": "CPU",
    "cpus_usable": "usable CPUs",
    "memory_bytes": "memory (bytes)",
    "distribution": "distribution",
}
# What of the node's state is a setting; counters and amounts in use differ between any two runs.
_SETTINGS = {
    "thp": ("enabled", "defrag", "shmem_enabled"),
    "khugepaged": ("defrag",),
    "cpu": ("governor", "smt", "energy_preference"),
    "cgroup": ("cpu_limit_cpus", "memory_max_bytes", "memory_high_bytes"),
    "numa": ("policy", "cpus_allowed", "nodes_allowed", "balancing"),
    "allocator": ("name", "libc", "settings", "glibc_tunables"),
    "memory": ("swappiness", "overcommit_memory", "zone_reclaim_mode"),
    "compaction": ("proactiveness",),
    "kernel": ("cmdline", "clocksource"),
}


@dataclass(frozen=True, slots=True)
class Unlike:
    """A fact that A and B disagree on."""

    fact: str
    a: str
    b: str


def find_unlike(runs_a: Sequence[Report], runs_b: Sequence[Report]) -> list[Unlike]:
    """Return the facts that A and B disagree on, or that change between repeats of one side."""
    found = _unlike_cache(runs_a, runs_b)
    facts_a, facts_b = [_facts(run) for run in runs_a], [_facts(run) for run in runs_b]
    for name in dict.fromkeys(name for facts in (*facts_a, *facts_b) for name in facts):
        a, b = (_values(name, side) for side in (facts_a, facts_b))
        if len({*a, *b}) > 1:
            found.append(Unlike(name, " or ".join(a), " or ".join(b)))
    return found


def _values(name: str, side: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(facts.get(name, "not recorded") for facts in side))


def _unlike_cache(runs_a: Sequence[Report], runs_b: Sequence[Report]) -> list[Unlike]:
    a, b = ([_resident_fraction(run) for run in runs] for runs in (runs_a, runs_b))
    known = [fraction for fraction in (*a, *b) if fraction is not None]
    is_known_throughout = len(known) == len(a) + len(b)
    if not known or (is_known_throughout and max(known) - min(known) <= _LIKE_FRACTION):
        return []
    return [Unlike("weights cached before", _fractions_text(a), _fractions_text(b))]


def _fractions_text(fractions: list[float | None]) -> str:
    texts = ["not recorded" if one is None else f"{100 * one:.3g} %" for one in fractions]
    return " or ".join(dict.fromkeys(texts))


def _resident_fraction(report: Report) -> float | None:
    fraction = state_before(report, "page_cache").get("resident_fraction")
    return float(fraction) if isinstance(fraction, int | float) else None


def _facts(report: Report) -> dict[str, str]:
    """Return the facts that must be equal, by the name under which a reader knows them."""
    facts = {"recording": plain(report.capture.get("status", "complete"))}
    facts |= _texts(report.capture, _CAPTURE_FACTS)
    facts |= _texts(as_mapping(report.capture.get("host")), _HOST_FACTS)
    facts["evidence"] = " ".join(sorted(plain(one.name) for one in report.sources if one.status != "unavailable"))
    for topic, keys in _SETTINGS.items():
        facts |= _texts(state_before(report, topic), {key: f"{topic} {key}" for key in keys})
    facts |= {f"version of {plain(name)}": plain(version) for name, version in state_before(report, "versions").items()}
    for name, cache in state_before(report, "compile_caches").items():
        facts[f"{plain(name)} compile cache"] = "filled" if as_mapping(cache).get("n_files") else "empty"
    gpus = state_before(report, "gpu").get("gpus")
    if isinstance(gpus, list) and gpus:
        facts["GPUs"] = ", ".join(plain(as_mapping(gpu).get("name")) for gpu in gpus)
    return facts


def _texts(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, str]:
    return {name: _text(values[key]) for key, name in names.items() if values.get(key) not in (None, "")}


def _text(value: object) -> str:
    return (", ".join(map(plain, value)) or "none") if isinstance(value, list) else plain(value)
