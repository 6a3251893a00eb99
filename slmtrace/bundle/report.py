"""A report with every text replaced by its redacted form. Numbers stay; free text that no list can vouch for goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..model.quality import Issue
from ..model.report import BATCH_OTHERS, BATCH_OWN, CauseShare, Report, SourceStatus, WindowReport
from ..model.windows import NEVER_READY, SOCKET_NOTE
from ..verdict.rules import RULES
from . import words
from .names import LEFT_OUT, Names
from .trace import known_source, redact_lost

_QUALITY = re.compile("(" + "|".join(re.escape(issue.value) for issue in Issue) + "): [0-9,.]{1,20}( [mnu]?s)?")
# The notes that model/windows.py gives a window.
_NOTES = frozenset({"no model load was seen", NEVER_READY, SOCKET_NOTE})
_STATUSES = frozenset({"ok", "partial", "unavailable", "complete", "aborted", "recording"})
_RULE_IDS = frozenset(rule.id for rule in RULES)
_MAX_DEPTH = 8


def redact_report(report: Report, names: Names) -> Report:
    """Return a report with the same numbers, and of texts only those on the allow-lists."""
    return replace(
        report,
        capture=_redact_capture(report.capture, names),
        sources=[
            SourceStatus(known_source(one.name), _one_of(one.status, _STATUSES), "", one.records, one.lost)
            for one in report.sources
        ],
        state=redact_state(report.state, names),
        windows=[_redact_window(window, names) for window in report.windows],
        overhead=redact_state(report.overhead, names),
        ledger=[
            {
                "source": known_source(line.get("source")),
                "lost": redact_lost(line.get("lost", {})),
                **{key: int(line[key]) for key in ("seen", "written", "decoded")},
            }
            for line in report.ledger
        ],
        clock=redact_state(report.clock, names),
        quality=[line for line in report.quality if _QUALITY.fullmatch(line)],
    )


def redact_state(state: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return a tree of facts with its numbers, and of its texts the words that are on a list."""
    redacted: dict[str, Any] = _redact_value("", dict(state), names, _MAX_DEPTH)
    return redacted


def _redact_capture(capture: Mapping[str, Any], names: Names) -> dict[str, Any]:
    host = capture.get("host")
    command = capture.get("command")
    return {
        "id": _matching(capture.get("id"), words.IDENTIFIER),
        "created": _matching(capture.get("created"), words.TIMESTAMP),
        "engine": _one_of(capture.get("engine"), {"hf", "vllm", "attach"}),
        "engine_version": _matching(capture.get("engine_version"), words.VERSION),
        "model": _one_of(capture.get("model"), words.MODELS) or "(private)",
        "tier": _one_of(capture.get("tier"), {"light", "deep"}),
        "status": _one_of(capture.get("status"), _STATUSES),
        "command": _redact_command([str(one) for one in command]) if isinstance(command, list) else [],
        "host": redact_state(host, names) if isinstance(host, Mapping) else {},
    }


def _redact_command(arguments: list[str]) -> list[str]:
    """Keep known options and words, and numbers only as the values of known options: another may be a password."""
    return [
        _argument(one, is_value=before in words.NUMERIC_OPTIONS)
        for before, one in zip(["", *arguments], arguments, strict=False)
    ]


def _argument(argument: str, *, is_value: bool) -> str:
    name, separator, value = argument.partition("=")
    if separator and words.OPTION.fullmatch(name):
        return f"{name}={_argument(value, is_value=name in words.NUMERIC_OPTIONS)}"
    is_safe = argument in words.COMMAND_WORDS or words.OPTION.fullmatch(argument)
    return argument if is_safe or (is_value and words.NUMBER.fullmatch(argument)) else "..."


def _redact_window(window: WindowReport, names: Names) -> WindowReport:
    return replace(
        window,
        request_id=names.request(window.request_id) if window.request_id else "",
        # What follows the colon may name a process.
        note=_one_of(window.note.partition(": ")[0], _NOTES),
        causes=[_redact_cause(share, names) for share in window.causes],
        # What a floor rests on and a finding's wording may name files: their numbers and kinds stay.
        floors=[replace(floor, name=names.counter(floor.name), basis=LEFT_OUT) for floor in window.floors],
        findings=[
            replace(
                one,
                id=_one_of(one.id, _RULE_IDS) or f"{one.phase.label}.{one.cause.label}",
                evidence=LEFT_OUT,
                recommendation=LEFT_OUT,
                confidence=_one_of(one.confidence, {"high", "medium", "low"}),
            )
            for one in window.findings
        ],
    )


def _redact_cause(share: CauseShare, names: Names) -> CauseShare:
    redact: dict[str, Callable[[str], str]] = {
        "files": names.path,
        "packages": names.package,
        "holders": lambda name: name if name in words.range_labels() else names.thread(name),
        "functions": names.function,
        "kernels": names.kernel,
        "ranges": names.range,
        "processes": names.thread,
        "batch": lambda name: _one_of(name, {BATCH_OWN, BATCH_OTHERS}),
    }
    detail: dict[str, Any] = {
        key: [
            {
                "name": redact[key](str(row.get("name", ""))),
                **{field: int(row.get(field, 0)) for field in ("ns", "count", "bytes")},
            }
            for row in rows
            if isinstance(row, Mapping)
        ]
        for key, rows in share.detail.items()
        if key in redact and isinstance(rows, list)
    }
    for key in ("bytes_per_second", "largest_bytes"):
        if isinstance(number := share.detail.get(key), int):
            detail[key] = number
    return replace(share, detail=detail)


def _redact_value(key: str, value: object, names: Names, depth: int) -> Any:
    """Redact one value of a tree of facts; what is neither number, text, list nor mapping is left out."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _redact_text(key, value, names)
    if depth and isinstance(value, list):
        return [_redact_value(key, one, names, depth - 1) for one in value]
    if depth and isinstance(value, Mapping):
        kept = {name: one for name, one in value.items() if isinstance(name, str) and words.is_key(name)}
        return {name: _redact_value(_role(key, name), one, names, depth - 1) for name, one in sorted(kept.items())}
    return None


def _role(parent: str, key: str) -> str:
    """Return what a text under this key is: 'name' says different things of a file and of a device."""
    return f"{parent}.{key}" if key == "name" else key


def _redact_text(key: str, text: str, names: Names) -> str:
    if key == "files.name":
        return names.path(text)
    if key in ("kernel", "release"):
        return _kernel_release(text)
    if key in ("cpus", "cpus_allowed", "nodes_allowed"):
        return _matching(text, words.CPU_LIST)
    if key in ("settings", "glibc_tunables"):
        return _matching(text, words.SETTING_NAME) or LEFT_OUT
    if key in ("device.name", "lies_on"):
        return names.block_device(text) or LEFT_OUT
    return re.sub(r"[^\s,]+", lambda match: match[0] if _is_fact(match[0]) else LEFT_OUT, text[:200])


def _is_fact(word: str) -> bool:
    patterns = (words.VERSION, words.CPU_NUMBER, words.NUMBER)
    return word in words.PRODUCT_WORDS or words.is_word(word) or any(one.fullmatch(word) for one in patterns)


def _kernel_release(release: str) -> str:
    """Return a kernel's release; a flavour that is no distribution's own may name who built it."""
    match = words.KERNEL_RELEASE.match(release)
    return (match[0] if match[0] == release else f"{match[0]}-{LEFT_OUT}") if match else LEFT_OUT


def _one_of(value: object, known: frozenset[str] | set[str]) -> str:
    return value if isinstance(value, str) and value in known else ""


def _matching(value: object, pattern: re.Pattern[str]) -> str:
    return value if isinstance(value, str) and pattern.fullmatch(value) else ""
