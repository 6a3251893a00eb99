"""What a node can do at best: measured once, kept for this node and model, left out where it cannot be known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slmtrace.engines import floors
from slmtrace.engines.models import Model


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Model("some", tmp_path, (), {})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    calls: list[Any] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        calls.append(command)
        answer = {"disk_bytes_per_second": 2e9, "cpu_flops_per_second": None}
        return subprocess.CompletedProcess(command, 0, json.dumps(answer).encode(), b"")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_node_is_measured_once_for_a_model(model: Model, measured: list[Any]) -> None:
    first, second = floors.find_floors(model), floors.find_floors(model)

    assert first == second == {"disk_bytes_per_second": 2e9}
    assert len(measured) == 1


def test_another_model_is_measured_by_itself(model: Model, measured: list[Any]) -> None:
    floors.find_floors(model)
    floors.find_floors(Model("other", model.path, (), {}))

    assert len(measured) == 2


def test_what_is_too_old_is_measured_again(model: Model, measured: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    floors.find_floors(model)
    monkeypatch.setattr(floors, "MAX_AGE_S", 0.0)
    floors.find_floors(model)

    assert len(measured) == 2


def test_a_node_that_is_slow_for_a_while_keeps_its_best(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([{"disk_bytes_per_second": 2e9}, {"disk_bytes_per_second": 6e7, "memory_bytes_per_second": 5e9}])

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 0, json.dumps(next(answers)).encode(), b"")

    monkeypatch.setattr(subprocess, "run", run)
    floors.find_floors(model)
    slow = floors.measure_floors(model)

    assert slow == {"disk_bytes_per_second": 6e7, "memory_bytes_per_second": 5e9}
    assert floors.find_floors(model) == {"disk_bytes_per_second": 2e9, "memory_bytes_per_second": 5e9}


def test_a_measurement_that_fails_costs_no_run(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")

    assert floors.find_floors(model) == {}


def test_what_was_measured_when_the_time_was_over_counts_now_and_is_not_kept(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], timeout: float, **_: Any) -> subprocess.CompletedProcess[bytes]:
        raise subprocess.TimeoutExpired(command, timeout, output=b'{"disk_bytes_per_second": 2e9}\n{"memory')

    monkeypatch.setattr(subprocess, "run", run)

    assert floors.measure_floors(model, limit_s=1.0) == {"disk_bytes_per_second": 2e9}
    assert floors.read_floors(model) == {}


def test_a_slow_device_is_not_read_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(bytes(64 << 20))
    blocks: list[int] = []

    def read_slowly(_descriptor: int, buffers: list[Any], _offset: int) -> int:
        blocks.append(len(buffers[0]))
        clock[0] += 1.0
        return blocks[-1]

    clock = [0.0]
    monkeypatch.setattr(floors.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(floors.os, "preadv", read_slowly)

    rate = floors.measure_disk((weights,))

    assert len(blocks) <= 6  # of 16: 3 s, and what each of four readers had begun
    assert rate == sum(blocks) / len(blocks)


def test_a_damaged_cache_is_measured_over(model: Model, measured: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "cache" / "slmtrace" / "floors.json"
    path.parent.mkdir(parents=True)
    path.write_text("[{]")

    assert floors.find_floors(model) == {"disk_bytes_per_second": 2e9}


def test_a_small_file_is_measured_beside_itself_and_nothing_stays(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"x" * 4096)

    rate = floors.measure_disk((weights,))

    assert rate is None or rate > 0  # None: the directory of the tests is in memory
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_no_weights_give_no_rate() -> None:
    assert floors.measure_disk(()) is None


def test_memory_copies_faster_than_a_disk() -> None:
    assert floors.measure_memory() > 1e8
