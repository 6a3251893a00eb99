"""What the README promises is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_glossary_is_that_of_the_taxonomy() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "glossary.py"), "--check"], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:|#)([^)]+)\)", README))))
def test_a_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("anchor", sorted(set(re.findall(r"\]\(#([^)]+)\)", README))))
def test_an_anchor_leads_to_a_heading(anchor: str) -> None:
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)

    assert anchor in {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^    slmtrace (\w+)", README, re.MULTILINE))))
def test_a_command_exists(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "slmtrace", command, "--help"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0


@pytest.mark.parametrize("tool", sorted(set(re.findall(r"\b(tools/[\w/]+\.(?:py|sh))", README))))
def test_a_tool_exists(tool: str) -> None:
    assert (ROOT / tool).is_file()
