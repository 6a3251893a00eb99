"""The built-in run, and a user's own program, with real transformers on a real machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slmtrace.capture.directory import Capture
from slmtrace.engines.architectures import MODEL_NAMES
from slmtrace.engines.synthesis import make_model

pytestmark = pytest.mark.hf

# What a user's own program looks like: no import of ours, a pipeline, no streamer.
PROGRAM = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
for prompt in ("Once upon a time", "In the beginning"):
    print(len(generator(prompt, max_new_tokens=3)))
"""


def slmtrace(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slmtrace", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def breakdown(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "breakdown.json").read_text())
    return content


def assert_conserved(window: dict[str, Any]) -> None:
    assert sum(window["phases"].values()) == window["total_ns"] == window["end_ns"] - window["start_ns"]
    assert sum(cause["ns"] for cause in window["causes"]) == window["total_ns"]
    assert sum(stage["ns"] for stage in window["stages"]) == window["total_ns"]
    for phase, ns in window["phases"].items():
        assert sum(cause["ns"] for cause in window["causes"] if cause["phase"] == phase) == ns


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_model("tiny", path)
    return path


@pytest.fixture(scope="module")
def recorded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    output = tmp_path_factory.mktemp("run") / "capture"
    done = slmtrace("run", "--model", tiny, "--cold", "--prompt-tokens", "96", "-o", output)
    assert done.returncode == 0, done.stderr
    return output, done


def test_a_run_has_a_load_window_and_one_per_request(recorded: tuple[Path, Any]) -> None:
    windows = breakdown(recorded[0])["windows"]

    assert [(window["name"], window["index"]) for window in windows] == [
        *(("load", 0), ("ttft", 0), ("ttft", 1), ("ttft", 2)),
    ]
    for window in windows:
        assert_conserved(window)


def test_a_run_prints_the_breakdown_and_where_the_capture_is(recorded: tuple[Path, Any]) -> None:
    output, done = recorded

    assert "first ttft" in done.stdout
    assert f"slmtrace report {output}" in done.stdout
    assert "\x1b" not in done.stdout


def test_prompts_have_the_length_that_was_asked_for(recorded: tuple[Path, Any]) -> None:
    assert re.findall(r"request (\d): (\d+) prompt tokens", recorded[1].stderr) == [
        ("0", "96"),
        ("1", "96"),
        ("2", "96"),
    ]


def test_the_windows_agree_with_the_programs_own_clock(recorded: tuple[Path, Any]) -> None:
    output, done = recorded
    measured_ms = [float(ms) for ms in re.findall(r"first text after ([\d.]+) ms", done.stderr)]
    recorded_ms = [window["total_ns"] / 1e6 for window in breakdown(output)["windows"] if window["name"] == "ttft"]

    assert recorded_ms == pytest.approx(measured_ms, rel=0.05, abs=3)


def test_a_cold_run_starts_without_a_page_of_the_weights(recorded: tuple[Path, Any], tiny: Path) -> None:
    manifest = Capture.open(recorded[0]).read_manifest()

    size_bytes = (tiny / "model.safetensors").stat().st_size
    if manifest["cache"]["resident_bytes"] == size_bytes:
        pytest.skip("the temporary directory is a memory file system")
    assert manifest["cache"] == {"mode": "cold", "n_files": 1, "size_bytes": size_bytes, "resident_bytes": 0}
    assert manifest["state"]["page_cache"]["before"]["resident_fraction"] == 0
    assert manifest["state"]["page_cache"]["after"]["resident_fraction"] == 1


def test_the_report_can_be_made_again_from_the_capture_and_from_the_trace_alone(recorded: tuple[Path, Any]) -> None:
    output = recorded[0]

    from_capture = slmtrace("report", output, "--format", "json")
    from_trace = slmtrace("report", output / "trace.pftrace", "--format", "json")

    assert from_capture.returncode == from_trace.returncode == 0
    assert json.loads(from_capture.stdout) == json.loads(from_trace.stdout) == breakdown(output)


def test_one_window_can_be_shown_alone(recorded: tuple[Path, Any]) -> None:
    shown = slmtrace("report", recorded[0], "--window", "ttft:1", "--format", "json")

    assert [window["index"] for window in json.loads(shown.stdout)["windows"]] == [1]


def test_an_unmodified_program_is_recorded_with_its_stages(tiny: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    done = slmtrace(
        "record", "--probes", "ranges,proc", "-o", tmp_path / "capture", "--", sys.executable, program, tiny
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "1\n1\n"
    content = breakdown(tmp_path / "capture")
    assert content["capture"]["model"] == "tiny"
    assert content["capture"]["command"] == [Path(sys.executable).name, "program.py", "..."]
    load, *requests = content["windows"]
    assert len(requests) == 2
    assert {"import", "tokenizer_load", "model_init", "weights"} <= {stage["stage"] for stage in load["stages"]}
    for window in content["windows"]:
        assert_conserved(window)


@pytest.mark.bpf
def test_with_ebpf_little_stays_unexplained(tiny: Path, tmp_path: Path) -> None:
    done = slmtrace("run", "--model", tiny, "--require", "ebpf", "-o", tmp_path / "capture")

    assert done.returncode == 0, done.stderr
    for window in breakdown(tmp_path / "capture")["windows"]:
        limit = 0.02 if window["name"] == "load" else 0.03
        assert window["phases"]["unattributed"] <= limit * window["total_ns"], window["name"]


def test_a_prompt_longer_than_the_model_allows_is_a_usage_error(tiny: Path, tmp_path: Path) -> None:
    done = slmtrace("run", "--model", tiny, "--prompt-tokens", "40000", "-o", tmp_path / "capture")

    assert done.returncode == 2
    assert "--prompt-tokens 32764 is the most" in done.stderr
    assert not (tmp_path / "capture").exists()


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_transformers_finds_every_weight_where_it_expects_it(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    make_model(name, tmp_path / "model", layers=2, scale=1.0 if name == "tiny" else 0.1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto", output_loading_info=True)
    inputs = tokenizer("the value of the expression", return_tensors="pt")

    assert not any(loading.values())
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(model(**inputs).logits).all()
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.decode(inputs["input_ids"][0]) == "the value of the expression"
