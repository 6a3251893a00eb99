"""The books of the sources: what was lost is shown everywhere, and what is missing without a word is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slmtrace.analysis import analyze, write_outputs
from slmtrace.capture.directory import Capture
from slmtrace.capture.layout import RING, LostCause
from slmtrace.capture.rawlog import encode_header
from slmtrace.output.json_ import render_json
from slmtrace.output.text import render_text
from slmtrace.probes.collector.log import open_log
from tests.support.logs import new_capture

N_LOST = 17


def record(tmp_path: Path, *, seen: int, written: int, lost: dict[str, int]) -> Capture:
    """Write a log that lost records, and books that say what the caller wants."""
    capture = new_capture(tmp_path)
    header = encode_header("ebpf", RING, machine="x86_64")
    log = open_log(str(capture.raw / "ebpf.bin"), header, os.getuid(), os.getgid())
    log.note_lost(LostCause.RING_FULL, N_LOST)
    log.note_lost_total(N_LOST)
    capture.write_manifest(
        {
            "status": "complete",
            "sources": [{"name": "ebpf", "status": "ok", "reason": "", "records": written, "lost": N_LOST}],
            "ledger": [{"source": "ebpf", "seen": seen, "written": written, "lost": lost}],
        }
    )
    return capture


def test_a_loss_is_shown_in_the_text_the_json_and_the_timeline(tmp_path: Path) -> None:
    capture = record(tmp_path, seen=1 + N_LOST, written=1, lost={"ring_full": N_LOST})

    trace, report = analyze(capture)
    write_outputs(trace, report, capture)

    assert f"ebpf lost records: {N_LOST} ring_full" in render_text(report)
    assert f'"ring_full": {N_LOST}' in render_json(report)
    assert f"ebpf: lost {N_LOST} (ring_full)".encode() in capture.trace_path.read_bytes()
    assert not report.quality


@pytest.mark.parametrize(("seen", "written"), [(1 + N_LOST + 3, 1), (1 + N_LOST + 3, 4)])
def test_records_missing_without_a_word_are_noticed(seen: int, written: int, tmp_path: Path) -> None:
    capture = record(tmp_path, seen=seen, written=written, lost={"ring_full": N_LOST})

    _, report = analyze(capture)

    assert [line for line in report.quality if "nobody can account for" in line] == [
        "records that a source saw or wrote and nobody can account for: 3"
    ]
