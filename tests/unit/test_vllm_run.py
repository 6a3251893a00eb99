"""What the built-in vLLM runs are made of, with a stand-in for vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from slmtrace.cli import run as run_command
from slmtrace.engines import vllm
from slmtrace.engines.client import Answer
from slmtrace.engines.models import Model
from slmtrace.engines.vllm import VllmChoices, find_vllm, prepare_vllm_run
from slmtrace.engines.vllm_driver import _describe
from slmtrace.errors import SlmtraceError, UsageError


def say(text: str) -> None:
    pass


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model that needs no tokenizer, and a vLLM on PATH."""
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "tokenizer.json").write_text("{}")

    def make_prompts(model: Model, n_tokens: int, n_prompts: int, n_new: int, scratch: Path, say: object) -> Path:
        path = scratch / "prompts.json"
        path.write_text(json.dumps(["prompt"] * n_prompts))
        return path

    monkeypatch.setattr(vllm, "make_prompts", make_prompts)
    return Model("model", directory, (), {})


def test_a_run_serves_on_loopback_and_asks_as_often_as_wanted(model: Model, tmp_path: Path) -> None:
    run = prepare_vllm_run(model, 22, 5, VllmChoices(concurrency=3, arguments=("--max-num-seqs", "2")), tmp_path, say)

    plan = json.loads(Path(run.command[-1]).read_text())
    assert plan["command"][1:5] == ["serve", str(model.path), "--host", "127.0.0.1"]
    assert plan["command"][plan["command"].index("--port") + 1] == str(plan["port"])
    assert plan["command"][-2:] == ["--max-num-seqs", "2"]
    assert (len(plan["prompts"]), plan["concurrency"]) == (5, 3)
    assert run.command[:3] == (sys.executable, "-m", "slmtrace.engines.vllm_driver")


def test_an_offline_run_is_a_program_of_the_interpreter_that_has_vllm(model: Model, tmp_path: Path) -> None:
    run = prepare_vllm_run(model, 22, 2, VllmChoices(is_offline=True), tmp_path, say)

    assert run.command[0] == sys.executable
    assert Path(run.command[1]).name == "vllm_offline.py"


def test_without_vllm_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    with pytest.raises(SlmtraceError, match="needs the command vllm") as caught:
        find_vllm()

    assert "pip install" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--offline"], "are for --engine vllm"),
        (["--concurrency", "2"], "are for --engine vllm"),
        (["--engine", "vllm", "--offline", "--concurrency", "2"], "asks one at a time"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(options: list[str], message: str) -> None:
    result = CliRunner().invoke(run_command.command, options)

    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_a_late_first_text_is_told_beside_the_first_data() -> None:
    answer = Answer("vllm-0", start_ns=1_000_000, first_data_ns=3_000_000, first_text_ns=5_000_000)

    assert _describe(answer) == "request vllm-0: first data after 2.000 ms, first text after 4.0 ms"


def test_a_failed_request_is_told_with_its_reason() -> None:
    assert _describe(Answer("vllm-0", error="status 500: no")) == "request vllm-0 failed: status 500: no"
