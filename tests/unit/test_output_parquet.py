"""The report as a table of rows: they sum to every window, phase and stage, and any reader of Parquet reads them."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest

from slmtrace.cli.main import main
from slmtrace.model.report import Report
from slmtrace.output.parquet import SCHEMA, render_parquet, rows_of
from slmtrace.output.perfetto import write_perfetto
from tests.support.builders import sample_run

Key = tuple[str, int, str]


def sums(report: Report, column: str) -> dict[Key, int]:
    found: dict[Key, int] = defaultdict(int)
    for row in rows_of(report):
        found[row["window"], row["index"], row[column]] += row["ns"]
    return dict(found)


def test_the_rows_of_a_window_sum_to_its_length() -> None:
    _, report = sample_run()

    totals: dict[tuple[str, int], int] = defaultdict(int)
    for row in rows_of(report):
        totals[row["window"], row["index"]] += row["ns"]

    assert totals == {(one.kind.label, one.index): one.total_ns for one in report.windows}


def test_stages_and_phases_have_the_sums_of_the_report() -> None:
    _, report = sample_run()

    assert sums(report, "phase") == {
        (one.kind.label, one.index, phase.label): ns for one in report.windows for phase, ns in one.phases.items() if ns
    }
    assert sums(report, "stage") == {
        (one.kind.label, one.index, share.stage.label): share.ns for one in report.windows for share in one.stages
    }


def test_any_reader_of_parquet_reads_them(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    _, report = sample_run()
    (tmp_path / "rows.parquet").write_bytes(render_parquet(report))

    table = pq.read_table(tmp_path / "rows.parquet")

    assert table.to_pylist() == list(rows_of(report))
    assert table.schema.metadata == {b"schema": SCHEMA.encode()}


def test_the_same_report_gives_the_same_bytes() -> None:
    assert render_parquet(sample_run()[1]) == render_parquet(sample_run()[1])


def test_a_trace_file_gives_rows_without_stages(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    trace, report = sample_run()
    write_perfetto(trace, report, tmp_path / "t.pftrace")
    command = ["report", str(tmp_path / "t.pftrace"), "--format", "parquet", "-o", str(tmp_path / "rows.parquet")]

    assert main([*command, "--window", "load"]) == 0

    rows = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert {(row["window"], row["stage"]) for row in rows} == {("load", None)}
    assert sum(row["ns"] for row in rows) == report.windows[0].total_ns


def test_a_terminal_gets_no_binary_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_perfetto(*sample_run(), tmp_path / "t.pftrace")

    assert main(["report", str(tmp_path / "t.pftrace"), "--format", "parquet"]) == 2
    assert "-o FILE.parquet" in capsys.readouterr().err


def test_without_pyarrow_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_perfetto(*sample_run(), tmp_path / "t.pftrace")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    command = ["report", str(tmp_path / "t.pftrace"), "--format", "parquet", "-o", str(tmp_path / "rows.parquet")]

    assert main(command) == 2
    assert not (tmp_path / "rows.parquet").exists()


@pytest.mark.parametrize("form", ["text", "markdown", "json", "html", "prometheus", "otlp"])
def test_a_file_has_what_stdout_would_have(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_perfetto(*sample_run(), tmp_path / "t.pftrace")
    command = ["report", str(tmp_path / "t.pftrace"), "--format", form]
    assert main(command) == 0

    assert main([*command, "-o", str(tmp_path / "report")]) == 0

    assert (tmp_path / "report").read_text().rstrip("\n") == capsys.readouterr().out.rstrip("\n")


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_perfetto(*sample_run(), tmp_path / "t.pftrace")
    (tmp_path / "mine").write_text("mine")

    assert main(["report", str(tmp_path / "t.pftrace"), "-o", str(tmp_path / "mine")]) == 2

    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "mine"
