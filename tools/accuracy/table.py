"""From measured pairs to a table: what changed, what the attribution says of it, and whether the verdict names it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from slmtrace.units import format_ns
from tools.faults.catalogue import FAULTS

from .measure import median

# A change below this share of the clean total is not worth a verdict.
_MIN_CHANGE = 0.10
# Where others took more than this of a run's CPU time, it says nothing of a fault.
_MOST_OTHERS = 0.10
_MOST_OTHERS_OF_A_PAIR = 0.25
# So much faster or slower the machine may have been.
_MOST_LAP_CHANGE = 0.10
_CONTENTION = ("cpu_contention", "too_many_threads")
_HEADER = (
    "fault", "model", "window", "n", "clean", "change", "of expected causes", "error", "most of the rest",
    "gain / predicted", "first finding", "named",
)  # fmt: skip
Line = dict[str, Any]


def render_table(lines: Sequence[Line]) -> str:
    """Render what was measured as Markdown."""
    all_pairs = [pair for line in lines for pair in _pairs(line)]
    whole = [pair for pair in all_pairs if _is_whole(pair)]
    clean = [line for line in lines if "windows" in line.get("clean", {})]
    matched = [{**pair, "clean": _match(pair, clean)} for pair in whole]
    pairs = [pair for pair in matched if not _is_disturbed(pair)]
    rows = [row for key in _keys(pairs) if (row := _row([pair for pair in pairs if _key(pair) == key]))]
    text = ["# Accuracy of the verdicts", "", *_facts(), "", *_table(rows), "", *_totals(rows), ""]
    text += [_disturbance(whole, len(whole) - len(pairs)), "", _noise_line(clean), "", _clean_line(clean), ""]
    text += [
        f"`{pair['fault']}` on {pair['model']} failed to run: {_why(pair)}." for pair in all_pairs if pair not in whole
    ]
    impossible = {fault: why for line in lines for fault, why in line.get("impossible", {}).items()}
    text += [f"`{fault}` could not be injected here: {reason}." for fault, reason in impossible.items()]
    return "\n".join(text).rstrip() + "\n"


def _match(pair: Line, lines: Sequence[Line]) -> Line:
    """Return the clean run of the same command, of those that others left alone the one on the most equal machine."""
    alike = [one for one in lines if _command(one) == _command(pair)]
    matched: Line = min(
        (one["clean"] for one in alike),
        key=lambda clean: (_others_share(clean) > _MOST_OTHERS, _lap_change(clean, pair["injected"])),
    )
    return matched


def _command(line: Line) -> tuple[object, ...]:
    return (*(line.get(key) for key in ("engine", "model", "requests", "prompt_tokens")), *line.get("options", ()))


def _lap_change(clean: Line, injected: Line) -> float:
    """Return by which share the machine was faster or slower."""
    laps = clean["lap_s"], injected["lap_s"]
    return float(max(laps) / min(laps) - 1)


def _is_disturbed(pair: Line) -> bool:
    if _lap_change(pair["clean"], pair["injected"]) > _MOST_LAP_CHANGE:
        return True
    is_about_cpus = "run_queue" in FAULTS[pair["fault"]].expects
    return not is_about_cpus and _others_share(pair["injected"]) > _MOST_OTHERS_OF_A_PAIR


def _disturbance(pairs: Sequence[Line], n_left_out: int) -> str:
    shares = [_others_share(pair["injected"]) for pair in pairs]
    return (
        "The speed of a virtual machine's CPUs changes with its neighbours: each injected run is held against the "
        "clean run of its command whose laps (a fixed computation before and after) are nearest. "
        f"{n_left_out} pairs are left out, whose laps differ by more than {100 * _MOST_LAP_CHANGE:.0f} %, or in which "
        f"others took more than {100 * _MOST_OTHERS_OF_A_PAIR:.0f} % of the CPU time. "
        f"Others took {100 * median(shares):.0f} % of the CPU time of the injected runs in the median. "
        "Contention with them is no part of a fault that is not about CPUs: there, the wait for a CPU is taken out of "
        "the totals, and `cpu_contention` is not counted as the first finding of a run in which they took more than "
        f"{100 * _MOST_OTHERS:.0f} %."
    )


class Row:
    """The pairs of one fault, model and window."""

    def __init__(self, pairs: Sequence[Line], window: str) -> None:
        self.pairs, self.window = pairs, window
        self.fault = FAULTS[pairs[0]["fault"]]
        self.changes = [self._total(pair, "injected") - self._total(pair, "clean") for pair in pairs]
        self.clean_ns = median([self._total(pair, "clean") for pair in pairs])
        self.attributed = [self._expected(pair, "injected") - self._expected(pair, "clean") for pair in pairs]

    @property
    def share(self) -> float:
        """Return the median change as a share of the clean total."""
        return median(self.changes) / self.clean_ns if self.clean_ns else 0.0

    def first_findings(self) -> list[str]:
        """Return the first finding of each injected run that changed enough."""
        large = [n for n, change in enumerate(self.changes) if change > _MIN_CHANGE * self.clean_ns]
        return [self._first_finding(self.pairs[n]) for n in large]

    def _first_finding(self, pair: Line) -> str:
        before, found = ({one["id"]: one["excess_ns"] for one in _findings(pair[kind], self.window)} for kind in _KINDS)
        grown_ns = {name: excess_ns - before.get(name, 0) for name, excess_ns in found.items()}
        names = sorted((name for name in found if grown_ns[name] > 0), key=lambda name: -grown_ns[name])
        if not self.is_about_cpus and _others_share(pair["injected"]) > _MOST_OTHERS:
            names = [name for name in names if name not in _CONTENTION]
        return names[0] if names else "none"

    def gains(self) -> list[tuple[int, int]]:
        """Return of each large change what following its finding saved, and what the finding had predicted.

        Where nobody followed it, removing the fault stands for that.
        """
        found = []
        for pair, change in zip(self.pairs, self.changes, strict=True):
            findings = _findings(pair["injected"], self.window)
            predicted_ns = sum(one["predicted_gain_ns"] for one in findings if one["id"] in self.fault.findings)
            if change > _MIN_CHANGE * self.clean_ns and predicted_ns:
                better = "cured" if "windows" in (pair["cured"] or {}) else "clean"
                found.append((self._total(pair, "injected") - self._total(pair, better), predicted_ns))
        return found

    def n_named(self) -> int:
        """Return how often the first finding names the fault."""
        return sum(one in self.fault.findings for one in self.first_findings())

    def errors(self) -> list[float]:
        """Return by which share of each large change the expected causes' change misses it."""
        both = zip(self.changes, self.attributed, strict=True)
        return [abs(mine - true) / true for true, mine in both if true > _MIN_CHANGE * self.clean_ns]

    def most_beside(self) -> str:
        """Return the cause that changed most of those that the injector does not declare, and its median change."""
        counted = ("run_queue",) if not self.is_about_cpus else ()  # as the totals do
        both = [[pair[kind]["windows"][self.window]["causes"] for kind in _KINDS] for pair in self.pairs]
        names = {name for causes in both for one in causes for name in one} - {*self.fault.expects, *counted}
        changes = {
            name: median([injected.get(name, 0) - clean.get(name, 0) for clean, injected in both])
            for name in sorted(names)
        }
        most = max(changes, key=lambda name: abs(changes[name]), default=None)
        return f"`{most}` {format_ns(round(changes[most]))}" if most and changes[most] else "-"

    def cells(self) -> list[str]:
        """Return the row as text."""
        names = self.first_findings()
        most = max(sorted(set(names)), key=names.count) if names else "-"
        return [
            f"`{self.fault.name}`",
            f"{self.pairs[0]['engine']} {self.pairs[0]['model']}",
            self.window,
            str(len(self.pairs)),
            format_ns(round(self.clean_ns)),
            f"{format_ns(round(median(self.changes)))} ({100 * self.share:+.0f} %)",
            format_ns(round(median(self.attributed))),
            f"{100 * median(self.errors()):.1f} %" if names else "-",
            self.most_beside(),
            _gain(self.gains()),
            f"`{most}`" if names else "-",
            f"{self.n_named()}/{len(names)}" if names else "-",
        ]

    @property
    def is_about_cpus(self) -> bool:
        """Say whether it is the fault's nature that threads wait for CPUs."""
        return "run_queue" in self.fault.expects

    def _total(self, pair: Line, name: str) -> int:
        window = pair[name]["windows"][self.window]
        waits_ns = 0 if self.is_about_cpus else window["causes"].get("run_queue", 0)
        return int(window["total_ns"]) - int(waits_ns)

    def _expected(self, pair: Line, name: str) -> int:
        causes = pair[name]["windows"][self.window]["causes"]
        return sum(int(causes.get(cause, 0)) for cause in self.fault.expects)


def _findings(run: Line, window: str) -> list[Line]:
    found: list[Line] = run["windows"][window]["findings"]
    return found


def _gain(gains: Sequence[tuple[int, int]]) -> str:
    if not gains:
        return "-"
    saved_ns, predicted_ns = (median(column) for column in zip(*gains, strict=True))
    return f"{format_ns(round(saved_ns))} / {format_ns(round(predicted_ns))}"


def _row(pairs: Sequence[Line]) -> Row | None:
    """Return the row of the window that the fault changed most, of those that it is made for."""
    fault = FAULTS[pairs[0]["fault"]]
    windows = [
        name for name in fault.windows if all(name in pair[kind]["windows"] for pair in pairs for kind in _KINDS)
    ]
    rows = [Row(pairs, window) for window in windows]
    return max(rows, key=lambda row: row.share, default=None)


_KINDS = ("clean", "injected")


def _table(rows: Sequence[Row]) -> list[str]:
    head = ["| " + " | ".join(_HEADER) + " |", "|" + "---|" * len(_HEADER)]
    return head + ["| " + " | ".join(row.cells()) + " |" for row in rows]


def _totals(rows: Sequence[Row]) -> list[str]:
    named, n = sum(row.n_named() for row in rows), sum(len(row.first_findings()) for row in rows)
    errors = sorted(error for row in rows for error in row.errors())
    if not n:
        return ["No change was large enough to be judged."]
    within = sum(error <= 0.15 for error in errors)
    return [
        f"Of {n} cases that changed the total by more than 10 %, the first finding names the fault in {named} "
        f"({100 * named / n:.0f} %; 95 % interval {_interval(named, n)}). The change of the expected causes misses the "
        f"change of the total by {100 * median(errors):.1f} % in the median, and by at most 15 % in {within} of {n}. "
        "What the clean run has of a finding is of the machine or the engine: the first is the one that grew most."
    ]


def _noise_line(lines: Sequence[Line]) -> str:
    """Say by how much equal runs differ: each clean run against the one that an injected run like it would get."""
    changes: dict[str, list[float]] = {}
    for line in (lines := _each_once(lines)):
        if others := [other for other in lines if other is not line and _command(other) == _command(line)]:
            nearest = _match({**line, "injected": line["clean"]}, others)
            for name, window in line["clean"]["windows"].items():
                if name in nearest["windows"] and _lap_change(nearest, line["clean"]) <= _MOST_LAP_CHANGE:
                    total_ns = nearest["windows"][name]["total_ns"]
                    changes.setdefault(name, []).append(abs(window["total_ns"] - total_ns) / total_ns)
    if not changes:
        return "No two clean runs were alike, so how much equal runs differ was not measured."
    each = ", ".join(
        f"{100 * median(shares):.1f} % of {name} (at most {100 * max(shares):.0f} %, {len(shares)} runs)"
        for name, shares in sorted(changes.items())
    )
    return f"Clean runs held against clean runs in the same way differ in the median by {each}: so much is no error."


def _each_once(lines: Sequence[Line]) -> list[Line]:
    """Return a line for each clean run: one stands in the line of each fault that it was compared with."""
    runs = [line["clean"] for line in lines]
    return [line for number, line in enumerate(lines) if line["clean"] not in runs[:number]]


def _clean_line(lines: Sequence[Line]) -> str:
    runs = [line["clean"] for line in _each_once(lines)]
    quiet = [run for run in runs if _others_share(run) <= _MOST_OTHERS]
    found = [
        (run, f"{finding['id']} ({name})")
        for run in runs
        for name, window in run["windows"].items()
        for finding in window["findings"]
        if run in quiet or finding["id"] not in _CONTENTION
    ]
    wrong = [text for _, text in found]
    n_runs = len({id(run) for run, _ in found})
    what = ", ".join(f"{wrong.count(name)} x {name}" for name in sorted(set(wrong)))
    return (
        f"Of {len(runs)} clean runs, in {len(runs) - len(quiet)} of which others took more than 10 % of the CPU time, "
        f"{n_runs} had a finding beside the contention in those" + (f": {what}." if what else ".")
    )


def _facts() -> list[str]:
    root = Path(__file__).parents[2]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return [
        f"Commit {commit.stdout.strip() or 'unknown'}, Linux {platform.release()}, {os.cpu_count()} CPUs, "
        f"{memory_gib:.0f} GiB. Written by `python -m tools.accuracy`; each pair is a clean and an injected run of the "
        "same command. *Change* is the median change of the window's total, *of expected causes* "
        "the part of it that the causes account for which the injector declares, *error* the median difference between "
        "the two as a share of the change, over the pairs that changed the total by more than 10 %; *most of the rest* "
        "is the cause that changed most of those not declared; *gain* is what following the recommendation saved, "
        "or removing the fault where nobody did, against the prediction."
    ]


def _interval(k: int, n: int) -> str:
    """Return the Wilson score interval of a proportion."""
    z, share = 1.96, k / n
    centre, spread = share + z * z / (2 * n), z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    low, high = (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)
    return f"{100 * low:.0f} to {100 * high:.0f} %"


def _others_share(run: Line) -> float:
    """Return which part of the CPU time of a run others took."""
    return float(run["others_share"])


def _pairs(line: Line) -> list[Line]:
    """Return a pair for each injected run of a block: it, and the clean run of the block."""
    cured = line.get("cured", {})
    return [
        {**line, "fault": fault, "injected": run, "cured": cured.get(fault)}
        for fault, run in line.get("injected", {}).items()
    ]


def _is_whole(line: Line) -> bool:
    return all("windows" in line.get(kind, {}) for kind in _KINDS)


def _why(line: Line) -> str:
    return " ".join(str(line[kind].get("failed", "")) for kind in _KINDS if "failed" in line.get(kind, {}))


def _key(line: Line) -> tuple[str, str, str]:
    return line["fault"], line["engine"], line["model"]


def _keys(lines: Sequence[Line]) -> list[tuple[str, str, str]]:
    names = list(FAULTS)
    return sorted({_key(line) for line in lines}, key=lambda key: (names.index(key[0]), *key[1:]))
