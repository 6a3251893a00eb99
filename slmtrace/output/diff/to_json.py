"""A comparison as JSON (schema `slmtrace.diff/1`): everything, the smallest movements too."""

from __future__ import annotations

import json
from typing import Any

from ...model.report import Report
from .compare import Amount, Comparison, Movement, WindowComparison

SCHEMA = "slmtrace.diff/1"
_CAPTURE_KEYS = ("id", "created", "engine", "engine_version", "model", "tier", "status")


def render_diff_json(comparison: Comparison) -> str:
    """Render the comparison: keys sorted, one trailing newline; the same reports give the same bytes."""
    data = {
        "schema": SCHEMA,
        "a": _side(comparison.a),
        "b": _side(comparison.b),
        "n_repeats": comparison.n_repeats,
        "unlike": [{"fact": one.fact, "a": one.a, "b": one.b} for one in comparison.unlike],
        "windows": [_window(one, has_noise=comparison.has_noise) for one in comparison.windows],
        "unmatched": comparison.unmatched,
    }
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n"


def _side(report: Report) -> dict[str, Any]:
    return {key: report.capture.get(key) for key in _CAPTURE_KEYS}


def _window(window: WindowComparison, *, has_noise: bool) -> dict[str, Any]:
    return {
        "name": window.kind.label,
        "index": window.index,
        "total": _movement(window.total, has_noise=has_noise),
        "phases": [_movement(one, has_noise=has_noise) for one in window.phases],
        "stages": [_movement(one, has_noise=has_noise) for one in window.stages],
        "causes": [_movement(one, has_noise=has_noise) for one in window.causes],
    }


def _movement(one: Movement, *, has_noise: bool) -> dict[str, Any]:
    """Return a movement; `beyond_noise` is null where there are no repeats to tell."""
    return {
        "name": one.name,
        "phase": one.phase.label if one.phase is not None else None,
        "a": _amount(one.a),
        "b": _amount(one.b),
        "delta_ns": one.delta_ns,
        "noise_ns": one.noise_ns if has_noise else None,
        "beyond_noise": one.is_separate if has_noise else None,
        "where": one.where or None,
    }


def _amount(amount: Amount) -> dict[str, int]:
    return {
        "ns": amount.ns,
        "low_ns": amount.low_ns,
        "high_ns": amount.high_ns,
        "count": amount.count,
        "bytes": amount.size_bytes,
    }
