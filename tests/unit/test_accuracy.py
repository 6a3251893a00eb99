"""The table of the accuracy runs: what it counts as named, as a change, and as a false finding."""

from __future__ import annotations

from typing import Any

import pytest

from tools.accuracy.table import render_table

S = 1_000_000_000


def run(
    total_s: float, finding: str = "", others: float = 0.0, lap_s: float = 0.05, **causes_s: float
) -> dict[str, Any]:
    findings = [{"id": finding, "excess_ns": S, "predicted_gain_ns": S}] if finding else []
    causes = {name: round(seconds * S) for name, seconds in causes_s.items()}
    window = {"total_ns": round(total_s * S), "causes": causes, "findings": findings}
    return {"others_share": others, "lap_s": lap_s, "windows": {"load": window}}


def pair(fault: str, clean: dict[str, Any], injected: dict[str, Any]) -> dict[str, Any]:
    return {"engine": "hf", "model": "tiny", "seed": 0, "clean": clean, "injected": {fault: injected}}


def row_of(text: str, fault: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| `{fault}`"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_fault_is_named_when_its_finding_comes_first() -> None:
    text = render_table([pair("cold_weights", run(5), run(6, "cold_weights", major_fault=0.9))])

    row = row_of(text, "cold_weights")
    assert row[4:8] == ["5.00 s", "1.00 s (+20 %)", "900 ms", "10.0 %"]
    assert row[-2:] == ["`cold_weights`", "1/1"]


@pytest.mark.parametrize(("excess_s", "first"), [(1.2, "cold_weights"), (3, "compiled_anew")])
def test_the_first_finding_is_the_one_that_grew_most(excess_s: float, first: str) -> None:
    clean, injected = run(5, "compiled_anew"), run(6, "compiled_anew", major_fault=0.9)
    findings = injected["windows"]["load"]["findings"]
    findings[0]["excess_ns"] = round(excess_s * S)
    findings.append({"id": "cold_weights", "excess_ns": S // 2, "predicted_gain_ns": S // 2})

    assert row_of(render_table([pair("cold_weights", clean, injected)]), "cold_weights")[-2] == f"`{first}`"


def test_a_small_change_is_not_judged() -> None:
    text = render_table([pair("cold_weights", run(5), run(5.2, "cold_weights", major_fault=0.2))])

    assert row_of(text, "cold_weights")[-1] == "-"
    assert "No change was large enough" in text


def test_the_wait_for_cpus_that_others_took_is_no_change() -> None:
    text = render_table(
        [pair("cold_weights", run(5, run_queue=0), run(9, "cpu_contention", others=0.2, run_queue=3, major_fault=1))]
    )

    row = row_of(text, "cold_weights")
    assert row[5] == "1.00 s (+20 %)"
    assert row[-2:] == ["`none`", "0/1"]


def test_a_clean_run_with_a_finding_is_counted_once_however_many_faults_it_serves() -> None:
    clean = run(5, "many_lookups")
    lines = [pair(fault, clean, run(6, fault)) for fault in ("cold_weights", "small_readahead")]

    assert "Of 1 clean runs" in render_table(lines)
    assert "1 had a finding beside the contention in those: 1 x many_lookups (load)" in render_table(lines)


def test_contention_in_a_clean_run_is_false_only_where_others_took_no_cpu() -> None:
    lines = [{"engine": "hf", "model": "tiny", "clean": run(5, "cpu_contention", others)} for others in (0.0, 0.5)]

    assert "1 had a finding beside the contention in those: 1 x cpu_contention (load)" in render_table(lines)


def test_a_run_is_held_against_the_clean_one_on_the_most_equal_machine() -> None:
    slow = pair("cold_weights", run(8, lap_s=0.08), run(9, "cold_weights", lap_s=0.08, major_fault=1))
    fast = pair("cold_weights", run(5), run(6, "cold_weights", lap_s=0.081, major_fault=1))

    row = row_of(render_table([slow, fast]), "cold_weights")

    assert row[3:6] == ["2", "8.00 s", "-500 ms (-6 %)"]


def test_a_clean_run_by_itself_may_stand_for_the_pairs_one_where_it_is_of_the_same_command() -> None:
    uneven = pair("cold_weights", run(5), run(9, "cold_weights", lap_s=0.08, major_fault=1))
    alone = {"engine": "hf", "model": "tiny", "clean": run(8, lap_s=0.08)}
    longer = {**alone, "requests": 11, "clean": run(20, lap_s=0.08)}

    row = row_of(render_table([uneven, longer, alone]), "cold_weights")

    assert row[3:6] == ["1", "8.00 s", "1.00 s (+12 %)"]


def test_a_pair_without_an_equal_machine_is_left_out_and_said() -> None:
    lines = [
        pair("cold_weights", run(5), run(6, "cold_weights", major_fault=1)),
        pair("cold_weights", run(5), run(9, "cold_weights", lap_s=0.07, major_fault=1)),
    ]

    text = render_table(lines)

    assert row_of(text, "cold_weights")[3] == "1"
    assert "1 pairs are left out" in text


def test_the_cause_that_changed_most_of_those_not_declared_is_shown() -> None:
    clean, injected = (
        run(5, cpu_kernel=2, python=1),
        run(6, "cold_weights", major_fault=0.6, cpu_kernel=2.3, python=1.1),
    )

    assert row_of(render_table([pair("cold_weights", clean, injected)]), "cold_weights")[8] == "`cpu_kernel` 300 ms"


def test_equal_runs_say_what_is_no_error() -> None:
    lines = [{"engine": "hf", "model": "tiny", "clean": run(total_s)} for total_s in (5, 5.5)]

    assert "differ in the median by 9.5 % of load (at most 10 %, 2 runs)" in render_table(lines)
    assert "No two clean runs were alike" in render_table(lines[:1])
