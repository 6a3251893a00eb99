"""What every output must say about one small run, byte for byte.

After a change that is meant: python -m tests.golden.cases, and read the diff.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from slmtrace.model.report import Finding
from slmtrace.model.taxonomy import Cause, Phase
from slmtrace.output.json_ import render_json
from slmtrace.output.markdown import render_markdown
from slmtrace.output.perfetto import render_perfetto
from slmtrace.output.text import render_text
from tests.support.builders import MS, make_report, sample_run
from tests.support.pftrace import dump

DIRECTORY = Path(__file__).parent / "sample"


def _troubled_text() -> str:
    """Render a report with all that can go wrong: findings, losses, an aborted recording, nothing known of the node."""
    _, report = sample_run()
    finding = Finding(
        "cold_weights",
        Phase.STORAGE,
        Cause.MAJOR_FAULT,
        700 * MS,
        "512 MiB of model.safetensors came through 12 page faults at 711 MB/s",
        "vmtouch -t model.safetensors before the start",
        680 * MS,
        "high",
    )
    load = replace(report.windows[0], findings=[finding], note="ended with the process, which never got ready")
    troubled = replace(
        make_report([load, *report.windows[1:]]),
        capture={"status": "aborted"},
        state={},
        sources=[],
        ledger=[{"source": "ebpf", "seen": 20, "written": 3, "decoded": 3, "lost": {"ring_full": 17}}],
        overhead={},
        quality=["events that ended before they began, set to zero length: 3"],
    )
    return render_text(troubled)


CASES: dict[str, Callable[[], str]] = {
    "report.txt": lambda: render_text(sample_run()[1]),
    "report-80-columns.txt": lambda: render_text(sample_run()[1], width=80),
    "report-color.ansi": lambda: render_text(sample_run()[1], color=True),
    "report-load.txt": lambda: render_text(sample_run()[1], sample_run()[1].windows[0]),
    "report-troubled.txt": _troubled_text,
    "report-empty.txt": lambda: render_text(make_report([])),
    "report.md": lambda: render_markdown(sample_run()[1]),
    "breakdown.json": lambda: render_json(sample_run()[1]),
    "trace.txt": lambda: dump(render_perfetto(*sample_run())),
}


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for name, render in CASES.items():
        (DIRECTORY / name).write_bytes(render().encode())
