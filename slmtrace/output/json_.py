"""The report as breakdown.json, and the checks that anybody can make on one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from ..model.percentiles import MIN_REQUESTS, PERCENTS, Percentile, ttft_percentiles
from ..model.report import Report
from ..model.taxonomy import Phase, WindowKind

SCHEMA_FILE = "breakdown.schema.json"


def render_json(report: Report) -> str:
    """Render breakdown.json: keys sorted, one trailing newline; the same report gives the same bytes."""
    return json.dumps(to_breakdown(report), indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def to_breakdown(report: Report) -> dict[str, Any]:
    """Return the content of breakdown.json: the report, and what follows from it for readers who do not compute."""
    data = report.to_json()
    percentiles = ttft_percentiles(report.windows)
    return {**data, "percentiles": [_percentile(one) for one in percentiles]} if percentiles else data


def _percentile(percentile: Percentile) -> dict[str, Any]:
    window = percentile.window
    return {
        "name": window.kind.label,
        "percent": percentile.percent,
        "index": window.index,
        "total_ns": window.total_ns,
        "phases": {phase.label: int(window.phases.get(phase, 0)) for phase in Phase},
    }


def read_schema() -> dict[str, Any]:
    """Return the published JSON Schema of breakdown.json."""
    text = resources.files(__package__).joinpath(SCHEMA_FILE).read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def check_conservation(data: Mapping[str, Any]) -> list[str]:
    """Return what does not add up in a breakdown that fits the schema; nothing if it is sound.

    Phases sum to the window, causes to their phase, stages to the window, and each stage's phases to the stage; over
    all stages, each phase sums to the window's. A percentile is the request at its rank, with that request's phases.
    """
    complaints: list[str] = []
    for window in data["windows"]:
        label = f"{window['name']} {window['index']}"
        total, phases = window["total_ns"], window["phases"]
        sums: list[tuple[str, int, int]] = [
            ("end - start", window["end_ns"] - window["start_ns"], total),
            ("phases", sum(phases.values()), total),
            ("stages", sum(stage["ns"] for stage in window["stages"]), total),
        ]
        for phase, ns in phases.items():
            causes = sum(cause["ns"] for cause in window["causes"] if cause["phase"] == phase)
            stages = sum(stage["phases"][phase] for stage in window["stages"])
            sums += [(f"causes of {phase}", causes, ns), (f"{phase} over the stages", stages, ns)]
        for stage in window["stages"]:
            sums.append((f"phases of stage {stage['stage']}", sum(stage["phases"].values()), stage["ns"]))
        complaints += _differences(label, sums)
        complaints += [f"{label}: negative time in {name}" for name in _negative(window)]
    return complaints + _wrong_percentiles(data)


def _wrong_percentiles(data: Mapping[str, Any]) -> list[str]:
    """Count from the windows themselves how many requests took no longer, and how many took less."""
    requests = {window["index"]: window for window in data["windows"] if window["name"] == WindowKind.TTFT.label}
    given = data.get("percentiles", [])
    expected = list(PERCENTS) if len(requests) >= MIN_REQUESTS and "percentiles" in data else []
    complaints = [] if [one["percent"] for one in given] == expected else ["the percentiles are not those expected"]
    totals = [window["total_ns"] for window in requests.values()]
    for one in given:
        label, window = f"ttft p{one['percent']}", requests.get(one["index"])
        if window is None or (one["total_ns"], one["phases"]) != (window["total_ns"], window["phases"]):
            complaints.append(f"{label}: is not ttft {one['index']}")
        n_up_to = sum(total <= one["total_ns"] for total in totals)
        n_below = sum(total < one["total_ns"] for total in totals)
        if not 100 * n_below < one["percent"] * len(totals) <= 100 * n_up_to:
            complaints.append(f"{label}: {n_up_to} of {len(totals)} requests took no longer, {n_below} less")
    return complaints


def _differences(label: str, sums: Iterable[tuple[str, int, int]]) -> list[str]:
    return [
        f"{label}: {what} sum to {found} ns, not {expected} ns" for what, found, expected in sums if found != expected
    ]


def _negative(window: Mapping[str, Any]) -> list[str]:
    named = [*window["phases"].items()]
    named += [(cause["cause"], cause["ns"]) for cause in window["causes"]]
    named += [(f"{stage['stage']}.{phase}", ns) for stage in window["stages"] for phase, ns in stage["phases"].items()]
    return [name for name, ns in named if ns < 0]
