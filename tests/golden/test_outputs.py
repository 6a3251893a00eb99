"""Every output of one small run, byte for byte."""

from __future__ import annotations

import pytest

from tests.golden.cases import CASES, DIRECTORY


@pytest.mark.parametrize("name", CASES)
def test_the_output_is_what_was_reviewed(name: str) -> None:
    expected = (DIRECTORY / name).read_bytes().decode()

    actual = CASES[name]()

    assert actual == expected


@pytest.mark.parametrize("name", CASES)
def test_the_same_report_gives_the_same_bytes(name: str) -> None:
    assert CASES[name]() == CASES[name]()
