"""The report as Prometheus reads it."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from slmtrace.cli.main import main
from slmtrace.output.perfetto import write_perfetto
from slmtrace.output.prometheus import render_prometheus
from tests.support.builders import sample_run

# The grammar of a sample: https://prometheus.io/docs/instrumenting/exposition_formats/
_SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\} (\S+)')


def read(text: str) -> list[tuple[str, dict[str, str], Fraction]]:
    """Read the samples, and check that every line is one or a comment."""
    samples = []
    for line in text.splitlines():
        if not line.startswith("# "):
            match = _SAMPLE.fullmatch(line)
            assert match, line
            labels = dict(re.findall(r'([a-z_]+)="((?:[^"\\]|\\.)*)"', match[2]))
            samples.append((match[1], labels, Fraction(match[3])))
    return samples


def test_stages_and_causes_sum_to_their_window_to_the_nanosecond() -> None:
    _, report = sample_run()

    sums: dict[tuple[str, str, str], Fraction] = defaultdict(Fraction)
    for name, labels, value in read(render_prometheus(report)):
        if "window" in labels:
            sums[name, labels["window"], labels["index"]] += value

    for window in report.windows:
        kind, index = window.kind.label, str(window.index)
        expected = Fraction(window.total_ns, 10**9)
        for name in ("window_seconds", "stage_phase_seconds", "cause_seconds"):
            assert sums["slmtrace_" + name, kind, index] == expected


def test_every_name_is_declared_once_before_its_samples() -> None:
    lines = render_prometheus(sample_run()[1]).splitlines()

    declared = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared)) == 5
    for number, line in enumerate(lines):
        if not line.startswith("#"):
            assert f"# TYPE {line.partition('{')[0]} gauge" in lines[:number]


def test_no_series_comes_twice() -> None:
    series = [(name, *sorted(labels.items())) for name, labels, _ in read(render_prometheus(sample_run()[1]))]

    assert len(series) == len(set(series))


@pytest.mark.parametrize("text", ['a"b', "a\\b", 'x"} 1\nevil{y="'])
def test_hostile_labels_stay_one_label(text: str) -> None:
    _, report = sample_run()

    samples = read(render_prometheus(replace(report, capture={**report.capture, "model": text})))

    assert [name for name, _, _ in samples].count("slmtrace_recording_info") == 1
    assert not [name for name, _, _ in samples if "evil" in name]


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_perfetto(*sample_run(), tmp_path / "a.pftrace")

    assert main(["report", str(tmp_path / "a.pftrace"), "--format", "prometheus", "--window", "ttft:1"]) == 0
    assert {labels["index"] for _, labels, _ in read(capsys.readouterr().out) if "index" in labels} == {"1"}
