"""`slmtrace doctor`: what can be recorded here, what not, and the remedy."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from ..probes.group import check_probe
from ..probes.registry import REGISTRY
from ..recording.facts import describe_host, describe_versions, package_version
from . import options

_MARKS = {"ok": ("ok", "green"), "partial": ("partly", "yellow"), "unavailable": ("no", "red")}
_OPTIONAL_PACKAGES = {"torch": "hf", "transformers": "hf", "vllm": "vllm", "cupti-python": "cuda"}


@click.command("doctor", short_help="Try every probe.")
@options.collector_socket
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def command(as_json: bool) -> None:
    """Try every probe for real, and say what is missing and how to get it. Nothing is changed or left behind."""
    findings = examine()
    if as_json:
        click.echo(json.dumps(findings, indent=1, sort_keys=True))
        return
    for line in _format(findings):
        click.echo(line)


def examine() -> dict[str, Any]:
    """Return what works here: probes, versions, the host, and which hooks the installed engines have."""
    probes = []
    for name, entry in REGISTRY.items():
        _, availability = check_probe(name)
        probes.append(
            {
                "name": name,
                "answers": entry.answers,
                "status": availability.status,
                "reason": availability.reason,
                "remedy": availability.remedy,
                "detail": availability.detail,
            }
        )
    return {"probes": probes, "versions": describe_versions(), "host": describe_host(), "hooks": _resolve_hooks()}


def _resolve_hooks() -> list[dict[str, str]]:
    """Return which hooks of the instrument the installed engines have; it imports them."""
    from ..instrument.hooks import resolve_all  # noqa: PLC0415

    return [asdict(hook) for hook in resolve_all()]


def _format(findings: dict[str, Any]) -> list[str]:
    host, versions = findings["host"], findings["versions"]
    lines = [f"{host['distribution']}, Linux {host['kernel']} {host['machine']}, {host['cpus_usable']} CPUs", ""]
    for probe in findings["probes"]:
        word, colour = _MARKS[probe["status"]]
        lines.append(f"{click.style(word.ljust(7), fg=colour)} {probe['name']:<8} {probe['answers']}")
        for label, text in (("", probe["reason"]), ("try: ", probe["remedy"])):
            if text:
                lines.append(f"{'':17}{label}{text}")
    lines.append("")
    lines += [f"{package:<13} {version}" for package, version in versions.items()]
    for package, extra in _OPTIONAL_PACKAGES.items():
        if not package_version(package):
            lines.append(f"{package:<13} not installed; try: pip install 'slmtrace[{extra}]'")
    lines += ["", *_format_hooks(findings["hooks"])]
    return lines


def _format_hooks(hooks: list[dict[str, str]]) -> list[str]:
    lines = []
    for table, rows in itertools.groupby(hooks, key=lambda hook: hook["table"]):
        statuses = [(row["status"], row["target"]) for row in rows]
        counts = Counter(status for status, _ in statuses)
        lines.append(f"{table + ' hooks':<13} " + ", ".join(f"{n} {status}" for status, n in counts.most_common()))
        lines += [f"{'':14}missing: {target}" for status, target in statuses if status == "missing"]
    return lines
