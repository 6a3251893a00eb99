"""The instrument in unmodified transformers programs: stages, request windows, and an unchanged target."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slmtrace.model.events import EventKind
from tests.support.ranges import Row, read_raw, run_python

pytestmark = pytest.mark.hf

MAKE_MODEL = """
import sys, torch
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
tokenizer = ByteLevelBPETokenizer()
tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 10, 300, special_tokens=["<end>"])
PreTrainedTokenizerFast(tokenizer_object=tokenizer._tokenizer, eos_token="<end>", pad_token="<end>").save_pretrained(
    sys.argv[1]
)
torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=256, eos_token_id=0,
)
Qwen2ForCausalLM(config).save_pretrained(sys.argv[1])
"""

LOAD = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer, TextStreamer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
options = {"max_new_tokens": 6, "do_sample": False}
"""

PROGRAM = (
    LOAD
    + """
import asyncio, threading
from transformers import pipeline
def encode(*texts): return tokenizer(list(texts), return_tensors="pt", padding=True)

print("plain")
out = model.generate(**encode("the quick brown fox"), **options)
print(tokenizer.decode(out[0]))

print("streamed")
model.generate(**encode("the lazy dog"), **options, streamer=TextStreamer(tokenizer))

print("batch")
print(tokenizer.batch_decode(model.generate(**encode("the fox", "the lazy dog jumps"), **options)))

print("no tokenizer")
ids = out[:, :4]
print(model.generate(ids, **options).shape)

print("beams")
print(model.generate(ids, **options, num_beams=2).shape)

print("in a thread")
streamer = TextIteratorStreamer(tokenizer)
thread = threading.Thread(target=model.generate, kwargs={**encode("the dog"), **options, "streamer": streamer})
thread.start()
print("".join(streamer))
thread.join()

print("failing")
try:
    model.generate(**encode("the fox"), max_new_tokens=0)
except ValueError as error:
    print("ValueError")

print("in asyncio")
async def serve(text): return await asyncio.to_thread(model.generate, **encode(text), **options)
async def both(): return await asyncio.gather(serve("the fox"), serve("the dog"))
print([tuple(out.shape) for out in asyncio.run(both())])

print("pipeline")
print(pipeline("text-generation", model=model, tokenizer=tokenizer)("the quick", **options))
"""
)
REQUESTS = ("plain", "streamed", "batch", "no tokenizer", "beams", "thread", "failing", "async", "async", "pipeline")

KILLED = (
    LOAD
    + """
import os, signal
class Killer(TextStreamer):
    def put(self, value):
        if getattr(self, "puts", 0) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        self.puts = getattr(self, "puts", 0) + 1
model.generate(**tokenizer("the fox", return_tensors="pt"), **options, streamer=Killer(tokenizer))
"""
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "model"
    made = subprocess.run([sys.executable, "-c", MAKE_MODEL, path], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture(scope="module")
def recorded(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Row]]:
    """Run the program once under the instrument: what it printed, and what was recorded."""
    directory = tmp_path_factory.mktemp("recorded")
    (directory / "program.py").write_text(PROGRAM)
    completed = run_python([str(directory / "program.py"), str(model)], directory / "raw")
    assert completed.returncode == 0, completed.stderr
    return completed.stdout, read_raw(directory / "raw")


def of_name(rows: list[Row], name: str, kind: EventKind = EventKind.RANGE) -> list[Row]:
    return [row for row in rows if row.name == name and row.kind is kind]


def marks(rows: list[Row], request: int) -> dict[str, Row]:
    return {row.name: row for row in rows if row.kind is EventKind.MARK and row.request == f"hf-{request}"}


def test_the_program_prints_what_it_prints_alone(recorded: tuple[str, list[Row]], model: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)

    alone = run_python([str(tmp_path / "program.py"), str(model)], None)

    assert recorded[0] == alone.stdout


def test_no_hook_is_missed_or_fails(recorded: tuple[str, list[Row]]) -> None:
    assert [row.name for row in recorded[1] if row.kind is EventKind.NOTE] == []


def test_loading_is_told_by_stages_inside_one_another(recorded: tuple[str, list[Row]]) -> None:
    rows = recorded[1]

    def contained(inner: str, outer: str) -> bool:
        return of_name(rows, outer)[0].start_ns <= of_name(rows, inner)[0].start_ns and (
            of_name(rows, inner)[0].end_ns <= of_name(rows, outer)[0].end_ns
        )

    stages = {row.stage for row in rows if row.kind is EventKind.RANGE}
    assert {"config", "tokenizer_load", "model_init", "weights"} <= stages
    assert contained("init", "PreTrainedModel.from_pretrained")
    assert contained("PreTrainedModel._load_pretrained_model", "PreTrainedModel.from_pretrained")
    assert contained("PreTrainedModel.from_pretrained", "AutoModel.from_pretrained")
    assert of_name(rows, "PreTrainedModel.from_pretrained")[0].detail > 0


def test_every_weight_is_materialized_once_and_their_bytes_are_the_models(
    recorded: tuple[str, list[Row]], model: Path
) -> None:
    loaded = sum(row.size_bytes for row in of_name(recorded[1], "_materialize_copy"))

    file_bytes = (model / "model.safetensors").stat().st_size
    # The file holds a header too.
    assert 0.9 * file_bytes < loaded < file_bytes


def test_the_last_ready_before_the_first_request_is_the_end_of_the_models_load(
    recorded: tuple[str, list[Row]],
) -> None:
    rows = recorded[1]
    first = marks(rows, 0)["request_start"].start_ns

    ready = [row.start_ns for row in rows if row.name == "ready" and row.start_ns < first]
    assert ready[-1] == of_name(rows, "AutoModel.from_pretrained")[0].end_ns


def test_every_request_has_its_marks_in_order(recorded: tuple[str, list[Row]]) -> None:
    for number, kind in enumerate(REQUESTS):
        found = marks(recorded[1], number)
        expected = ["request_start", "first_token", "request_end"]
        if kind == "failing":
            expected.remove("first_token")
        assert list(found) == expected, kind
        times = [row.start_ns for row in found.values()]
        assert times == sorted(set(times)), kind
    assert marks(recorded[1], len(REQUESTS)) == {}


@pytest.mark.parametrize("kind", ["plain", "streamed", "batch", "thread", "pipeline"])
def test_a_request_starts_when_its_prompt_begins_to_be_tokenized(recorded: tuple[str, list[Row]], kind: str) -> None:
    start = marks(recorded[1], REQUESTS.index(kind))["request_start"].start_ns

    assert start in {row.start_ns for row in of_name(recorded[1], "tokenizer")}


def test_a_request_without_a_tokenizer_starts_with_generate(recorded: tuple[str, list[Row]]) -> None:
    number = REQUESTS.index("no tokenizer")
    (generate,) = (row for row in of_name(recorded[1], "generate") if row.request == f"hf-{number}")

    mark = marks(recorded[1], number)["request_start"]

    assert mark.start_ns == generate.start_ns


@pytest.mark.parametrize("kind", ["streamed", "thread"])
def test_a_streamed_first_token_is_out_after_its_put(recorded: tuple[str, list[Row]], kind: str) -> None:
    number = REQUESTS.index(kind)
    puts = [row for row in of_name(recorded[1], "streamer.put") if row.request == f"hf-{number}"]

    # The prompt's put and the first token's; later ones are outside the window, and not recorded.
    assert len(puts) == 2
    assert marks(recorded[1], number)["first_token"].start_ns == puts[1].end_ns


def test_the_first_forward_pass_is_the_only_one_recorded(recorded: tuple[str, list[Row]]) -> None:
    for number, kind in enumerate(REQUESTS):
        prefill = [row for row in recorded[1] if row.stage == "prefill" and row.request == f"hf-{number}"]
        assert len(prefill) == (0 if kind == "failing" else 1), kind
        if prefill:
            found = marks(recorded[1], number)
            assert found["request_start"].start_ns < prefill[0].start_ns
            assert prefill[0].end_ns < found["first_token"].start_ns
            assert prefill[0].detail > 0


def test_nothing_but_the_outer_calls_is_recorded_after_the_first_token(recorded: tuple[str, list[Row]]) -> None:
    for number in range(len(REQUESTS)):
        found = marks(recorded[1], number)
        if "first_token" in found:
            late = [
                row.name
                for row in recorded[1]
                if row.request == f"hf-{number}" and row.start_ns > found["first_token"].start_ns
            ]
            assert late == ["request_end"]


def test_a_program_killed_while_it_generates_keeps_its_first_token(model: Path, tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)

    completed = run_python([str(tmp_path / "killed.py"), str(model)], tmp_path / "raw")
    rows = read_raw(tmp_path / "raw")

    assert completed.returncode == -9
    assert list(marks(rows, 0)) == ["request_start", "first_token"]
    # Its BEGIN record alone tells of generate, which never ended.
    assert [row.request for row in of_name(rows, "generate")] == ["hf-0"]


COMPILED = """
import torch
module = torch.nn.Linear(2, 2)
def forward(x):
    y = module.to(torch.float64)(x)
    module.eval()
    return y + 1
explained = torch._dynamo.explain(forward)(torch.ones(1, 2, dtype=torch.float64))
print(explained.graph_count, explained.graph_break_count)
module.to(torch.float32)
"""


def test_compiled_code_does_not_break_at_a_wrapped_call(tmp_path: Path) -> None:
    completed = run_python(["-c", COMPILED], tmp_path / "raw")

    rows = read_raw(tmp_path / "raw")
    assert completed.stdout == "1 0\n"
    assert {row.stage for row in of_name(rows, "dynamo compile")} == {"compile"}
    assert of_name(rows, "Module.to")[-1].stage == "weights"
