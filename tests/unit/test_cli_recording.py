"""What a command line asks a recording to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slmtrace.cli.recording import default_output, read_choices
from slmtrace.cli.report import choose_windows
from slmtrace.errors import UsageError
from slmtrace.model.report import WindowReport
from slmtrace.model.taxonomy import WindowKind

ARGUMENTS: dict[str, Any] = {
    "tier": "light",
    "malloc": "default",
    "gpu_kernels": True,
    "probes": None,
    "require": "",
    "output": None,
}


def test_the_light_tier_takes_no_samples_and_the_deep_one_does() -> None:
    assert read_choices(ARGUMENTS).probes == ("ebpf", "proc", "ranges")
    assert read_choices({**ARGUMENTS, "tier": "deep"}).probes == ("ebpf", "proc", "pyspy", "ranges")


def test_a_gpu_is_looked_for_but_not_missed() -> None:
    choices = read_choices(ARGUMENTS)

    assert "nvml" in choices.probes_if_present
    assert not set(choices.probes_if_present) & {*choices.probes, *choices.required}


def test_slow_allocator_calls_need_their_probe() -> None:
    assert "malloc" in read_choices({**ARGUMENTS, "malloc": "slow"}).probes
    assert "malloc" not in read_choices({**ARGUMENTS, "malloc": "full"}).probes


def test_named_probes_are_taken_and_no_others() -> None:
    choices = read_choices({**ARGUMENTS, "probes": "ranges,proc", "require": "ranges"})

    assert (choices.probes, choices.required, choices.probes_if_present) == (("proc", "ranges"), ("ranges",), ())


def test_a_recording_goes_to_traces_under_a_name_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = default_output("hf", "Qwen 2/../../etc")
    first.mkdir(parents=True)
    second = default_output("hf", "Qwen 2/../../etc")

    assert first.parent == Path("traces")
    assert first.name.endswith("Z-hf-Qwen-2-..-..-etc")
    assert not second.exists()


def window(kind: WindowKind, index: int) -> WindowReport:
    return WindowReport(kind, index, "", "", 0, 1, {}, [], [], {})


WINDOWS = [window(WindowKind.LOAD, 0), window(WindowKind.TTFT, 0), window(WindowKind.TTFT, 1)]


@pytest.mark.parametrize(
    ("wanted", "labels"), [("load", ["load"]), ("ttft", ["ttft 0", "ttft 1"]), ("ttft:1", ["ttft 1"])]
)
def test_window_chooses(wanted: str, labels: list[str]) -> None:
    assert [chosen.label for chosen in choose_windows(WINDOWS, wanted)] == labels


@pytest.mark.parametrize("wanted", ["", "boot", "load:0", "ttft:", "ttft:-1", "ttft:x"])
def test_a_window_that_means_nothing_is_a_usage_error(wanted: str) -> None:
    with pytest.raises(UsageError, match="means nothing"):
        choose_windows(WINDOWS, wanted)


def test_a_window_that_was_not_recorded_is_told_with_those_that_were() -> None:
    with pytest.raises(UsageError, match="no window ttft:7") as caught:
        choose_windows(WINDOWS, "ttft:7")

    assert caught.value.hint == "recorded are: load, ttft:0, ttft:1"
