"""One request has one id in every process of vLLM."""

from __future__ import annotations

import pytest

from slmtrace.instrument.hooks.vllm import ids


@pytest.mark.parametrize(
    ("outer", "client"),
    [
        ("cmpl-abc-0", "abc"),
        ("cmpl-vllm-3-0", "vllm-3"),
        ("chatcmpl-abc", "abc"),
        ("cmpl-0f3c-1", "0f3c-1"),
        ("7", "vllm-7"),
        ("my-own", "my-own"),
    ],
)
def test_the_front_ends_id_leads_back_to_the_clients(outer: str, client: str) -> None:
    assert ids.from_outer(outer) == client


@pytest.mark.parametrize(
    ("inner", "client"),
    [
        ("cmpl-abc-0-1a2b3c4d", "abc"),
        ("chatcmpl-abc-1a2b3c4d", "abc"),
        ("0-90e70c35", "vllm-0"),
        ("1_cmpl-abc-0-1a2b3c4d", "abc"),
        ("cmpl-abc-0", "abc"),
    ],
)
def test_the_engines_id_leads_back_to_the_clients(inner: str, client: str) -> None:
    assert ids.from_inner(inner) == client


def test_a_clients_id_that_looks_random_survives() -> None:
    assert ids.from_inner("chatcmpl-job-deadbeef-1a2b3c4d") == ids.from_outer("chatcmpl-job-deadbeef")


def test_without_random_suffixes_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_DISABLE_REQUEST_ID_RANDOMIZATION", "1")

    assert ids.from_inner("chatcmpl-run-0badcafe") == "run-0badcafe"


def test_several_requests_are_none_in_particular() -> None:
    assert ids.only(["cmpl-a-0-1a2b3c4d", "cmpl-b-0-1a2b3c4d"]) == ""
    assert ids.only(["cmpl-a-0-1a2b3c4d"]) == "a"
