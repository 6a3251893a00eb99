"""The programs that tools/gpu records, on a CPU: what would not start on a machine with a GPU is found here."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slmtrace.engines.synthesis import make_model

GPU_TOOLS = Path(__file__).parents[2] / "tools" / "gpu"
_TIMEOUT_S = 120

pytestmark = pytest.mark.hf


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    make_model("tiny", path)
    return path


def workload(name: str, model: Path, *options: str) -> list[str]:
    return [sys.executable, str(GPU_TOOLS / name), str(model), "--device", "cpu", "--prompt-tokens", "8", *options]


def test_transformers_answer_as_many_requests_as_are_asked_for(tiny: Path) -> None:
    command = workload("hf_workload.py", tiny, "--requests", "1", "--new-tokens", "2", "--asked")
    done = subprocess.run(command, input="2\n", capture_output=True, text=True, check=True, timeout=_TIMEOUT_S)
    told = [re.sub(r"[\d.]+ ms", "T", line) for line in done.stdout.splitlines()[1:]]
    requests = [f"request {number}: 8 prompt tokens, first token T, all T" for number in range(3)]
    assert told == [requests[0], "ready", *requests[1:], "ready"]


def test_a_server_answers_every_request_with_the_same_token(tiny: Path) -> None:
    with subprocess.Popen(workload("serve_workload.py", tiny), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            client = http.client.HTTPConnection("127.0.0.1", int(server.stdout.readline()), timeout=_TIMEOUT_S)
            answers = []
            for _ in range(2):
                client.request("POST", "/", body=b"x")
                answers.append(int(client.getresponse().read()))
            client.close()
        finally:
            server.kill()
    assert answers[0] == answers[1]
