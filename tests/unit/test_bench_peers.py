"""Other recorders as commands around a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.bench.peers import PEERS


@pytest.mark.parametrize("name", PEERS)
def test_a_recorder_is_a_command_whose_words_end_with_the_program(tmp_path: Path, name: str) -> None:
    program = ["program.py", "model", "3"]

    command = PEERS[name].wrap(program, tmp_path)

    assert all(isinstance(word, str) for word in command)
    # bpftrace splits its command at spaces, and gets the program in a script.
    words = (tmp_path / "program").read_text().split() if name == "bpftrace" else command
    assert words[-len(program) :] == program
