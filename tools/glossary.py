#!/usr/bin/env python3
"""Write the README's glossary from the taxonomy, between its two marks. `--check` only says if it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from slmtrace.model.taxonomy import CAUSES, PHASE_MEANINGS, STAGES, Cause, Phase, Stage

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- glossary: tools/glossary.py writes this -->", "<!-- end of glossary -->"


def render_glossary() -> str:
    """Return the glossary as Markdown: phases with their causes, then the stages."""
    lines = ["| phase | cause | what it means |", "|---|---|---|"]
    for phase in Phase:
        lines.append(f"| **{phase.label}** | | {PHASE_MEANINGS[phase]} |")
        lines += [f"| | `{cause.label}` | {CAUSES[cause].meaning} |" for cause in Cause if cause.phase is phase]
    lines += ["", "| stage | of | what the engine was doing |", "|---|---|---|"]
    lines += [f"| `{stage.label}` | {STAGES[stage].window.label} | {STAGES[stage].meaning} |" for stage in Stage]
    return "\n".join(lines)


def with_glossary(readme: str) -> str:
    """Return the README's text with the present glossary."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{README} has lost its glossary marks")
    return f"{head}{BEGIN}\n\n{render_glossary()}\n\n{END}{tail}"


def main() -> None:
    """Write or check."""
    present = README.read_text()
    wanted = with_glossary(present)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if present == wanted else "the README's glossary is out of date: run tools/glossary.py")
    README.write_text(wanted)


if __name__ == "__main__":
    main()
