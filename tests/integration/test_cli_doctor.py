"""`slmtrace doctor` tries everything and leaves nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from slmtrace.probes.registry import PROBE_NAMES


def doctor(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "slmtrace", "doctor", *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(doctor("--json"))
    return content


def test_every_probe_has_an_answer_and_what_is_missing_a_reason_and_a_remedy(found: dict[str, Any]) -> None:
    assert sorted(probe["name"] for probe in found["probes"]) == sorted(PROBE_NAMES)
    for probe in found["probes"]:
        assert probe["status"] in ("ok", "partial", "unavailable")
        assert probe["answers"]
        if probe["status"] == "unavailable":
            assert probe["reason"], probe["name"]
            assert probe["remedy"], probe["name"]


@pytest.mark.hf
def test_no_hook_of_the_installed_transformers_is_missing(found: dict[str, Any]) -> None:
    assert {hook["table"] for hook in found["hooks"]} >= {"torch", "hf"}
    assert [hook["target"] for hook in found["hooks"] if hook["status"] == "missing"] == []


def test_the_table_names_every_probe() -> None:
    shown = doctor()

    assert all(name in shown for name in PROBE_NAMES)
    assert "\x1b" not in shown
