"""Two requests to a vLLM server, recorded once and shipped in traces/: explained anew, without vLLM or eBPF."""

from __future__ import annotations

from pathlib import Path

import pytest

from slmtrace.analysis import load
from slmtrace.attribute.attribution import attribute
from slmtrace.capture.directory import Capture
from slmtrace.model.report import WindowReport
from slmtrace.model.taxonomy import Phase, Stage
from slmtrace.model.trace import Trace
from slmtrace.model.windows import find_windows

CAPTURE = Path(__file__).resolve().parents[2] / "traces" / "vllm-two-requests"
STEPS = (Stage.RECEIVE, Stage.TOKENIZE, Stage.SUBMIT, Stage.SCHEDULE, Stage.DISPATCH, Stage.PREPARE, Stage.PREFILL)
STEPS += (Stage.SAMPLE, Stage.RETURN, Stage.DETOKENIZE, Stage.DELIVER)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return load(Capture.open(CAPTURE))


@pytest.fixture(scope="module")
def requests(trace: Trace) -> list[WindowReport]:
    return attribute(trace, find_windows(trace))


def test_both_requests_are_followed_through_client_server_engine_and_worker(
    trace: Trace, requests: list[WindowReport]
) -> None:
    assert len(requests) == 2
    for report in requests:
        assert report.segments is not None
        processes = {trace.tracks[track].process.partition("_")[0] for track in set(report.segments.track.tolist())}
        assert {name.removeprefix("VLLM::")[:9] for name in processes} == {"slmtrace.", "vllm", "EngineCor", "Worker"}


def test_every_nanosecond_has_a_cause(requests: list[WindowReport]) -> None:
    for report in requests:
        assert sum(report.phases.values()) == report.total_ns
        assert report.phases[Phase.UNATTRIBUTED] <= 0.03 * report.total_ns


def test_the_stages_come_in_order(requests: list[WindowReport]) -> None:
    for report in requests:
        assert report.segments is not None
        stages = report.segments.stage.tolist()
        # A short stage may have run beside the path.
        first = [stages.index(stage) for stage in STEPS if stage in stages]
        assert first == sorted(first)
        assert len(first) >= len(STEPS) - 2
