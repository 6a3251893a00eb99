"""Certificates of many nodes: one table, the nodes that are off, and those that did not answer."""

from __future__ import annotations

import copy
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from slmtrace.errors import CaptureError, SlmtraceError
from slmtrace.studies.certificate import render_certificate_json
from slmtrace.studies.fleet import collect_rows, make_row, missing_row, parse_answer, read_parquet, write_parquet
from slmtrace.studies.fleet_output import render_fleet_html, render_fleet_text
from slmtrace.studies.fleet_ray import _require_listener
from slmtrace.studies.outliers import compare_fleet
from tests.unit.test_certificate import healthy_facts, make_certificate
from tools.fuzzing.damage import damage_json


def fleet_rows(n: int, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    healthy = make_row("", make_certificate(healthy_facts()).data)

    def row(number: int) -> dict[str, Any]:
        noisy = {
            key: value * rng.gauss(1, 0.02) if isinstance(value, float) else value for key, value in healthy.items()
        }
        return {**noisy, "node": f"node-{number:05d}"}

    return [row(number) for number in range(n)]


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in rows] for name in rows[0]}


def test_nodes_that_differ_by_noise_have_no_outlier() -> None:
    assert compare_fleet(columns(fleet_rows(200))).outliers == []


def test_a_damaged_certificate_costs_its_own_node_alone(tmp_path: Path) -> None:
    whole = render_certificate_json(make_certificate(healthy_facts())).encode()
    for seed in range(200):
        (tmp_path / f"{seed}.json").write_bytes(damage_json(whole, random.Random(seed)) if seed % 2 else whole)

    rows = collect_rows(tmp_path)
    text = render_fleet_text(compare_fleet(columns(rows)))

    assert {row["status"] for row in rows if int(row["node"]) % 2 == 0} == {"ok"}
    assert "failed" in {row["status"] for row in rows}
    assert "\x1b" not in text


def test_a_slow_node_is_named_with_the_phase_that_made_it_slow() -> None:
    rows = fleet_rows(20)
    rows[7]["warm_load_real_s"] += 3.0
    rows[7]["warm load.storage_s"] += 2.8

    fleet = compare_fleet(columns(rows))

    assert [(one.node, one.metric, one.where) for one in fleet.outliers] == [
        ("node-00007", "warm_load_real_s", "storage")
    ]
    assert "node-00007: warm_load_real_s" in render_fleet_text(fleet)


def test_a_cause_that_no_other_node_met_is_named() -> None:
    rows = fleet_rows(20)
    rows[7]["warm_load_real_s"] += 3.0
    rows[7]["warm load.scheduler_s"] += 3.0
    rows[7]["warm load.scheduler.cpu_throttled_s"] = 2.9
    table = {name: [row.get(name) for row in rows] for name in rows[7]}

    fleet = compare_fleet(table)

    assert [(one.node, one.where) for one in fleet.outliers] == [("node-00007", "scheduler.cpu_throttled")]


def test_a_node_whose_certificate_fails_is_named_however_few_nodes_there_are() -> None:
    rows = fleet_rows(2)
    rows[1] |= {"verdict": "fail", "reason": "CPU quota, warm load: 33 % of it"}

    fleet = compare_fleet(columns(rows))

    assert fleet.failed == [("node-00001", "CPU quota, warm load: 33 % of it")]
    shown = render_fleet_text(fleet)
    assert "node-00001: its certificate fails, CPU quota, warm load: 33 % of it" in shown
    assert "too few to compare, 4 are needed" in shown


def test_a_faster_node_is_no_outlier() -> None:
    rows = fleet_rows(20)
    rows[3]["warm_load_real_s"] /= 3

    assert compare_fleet(columns(rows)).outliers == []


def test_nodes_are_compared_with_their_own_kind() -> None:
    rows = fleet_rows(20)
    for row in rows[10:]:
        row["sku"] = "an older kind"
        row["warm_load_real_s"] *= 3

    fleet = compare_fleet(columns(rows))

    assert fleet.outliers == []
    assert sorted(kind.n_nodes for kind in fleet.kinds) == [10, 10]


def test_another_model_makes_another_kind_and_a_failed_check_comes_with_its_cause() -> None:
    facts = healthy_facts()
    facts["engine"]["model"] = "half"
    facts["windows"]["warm load"]["causes"]["scheduler.cpu_throttled"] = 1_500_000_000

    row = make_row("a", make_certificate(facts).data)

    assert row["sku"] == fleet_rows(1)[0]["sku"].replace("hf tiny", "hf half")
    reason = "CPU quota, warm load: 50.5 % of the warm load beside its waits for a CPU (limit 15 %)"
    assert row["reason"] == f"{reason} [scheduler.cpu_throttled]"


def test_nodes_without_a_certificate_are_reported_with_their_reason() -> None:
    rows = [*fleet_rows(8), missing_row("node-x", "hung", "no certificate within 60 s")]
    table = {name: [row.get(name) for row in rows] for name in rows[0]}

    fleet = compare_fleet(table)

    assert fleet.missing == [("node-x", "hung", "no certificate within 60 s")]
    assert "node-x" in render_fleet_html(fleet)


def test_ten_thousand_nodes_are_compared_in_two_seconds() -> None:
    table = columns(fleet_rows(10_000))
    best_s = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        fleet = compare_fleet(table)
        best_s = min(best_s, time.perf_counter() - start)

    assert len(fleet.nodes) == 10_000
    assert best_s < 2


def test_a_directory_of_certificates_is_a_table_and_what_is_none_is_a_failed_row(tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text(render_certificate_json(make_certificate(healthy_facts())))
    (tmp_path / "cut.json").write_text('{"schema": ')

    rows = collect_rows(tmp_path)

    assert [(row["node"], row["status"]) for row in rows] == [("cut", "failed"), ("good", "ok")]


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="holds no certificates"):
        collect_rows(tmp_path)


def test_what_a_node_printed_becomes_its_row_and_a_failure_its_last_words() -> None:
    facts = copy.deepcopy(healthy_facts())
    certificate = json.dumps(dict(make_certificate(facts).data))

    assert parse_answer("a", certificate, 0, "")["verdict"] == "pass"
    told = parse_answer("b", "", 1, "slmtrace: step 1 of 3\nslmtrace: no torch\n  try: pip install torch\n")
    assert told["reason"] == "exit code 1; no torch; try: pip install torch"
    assert parse_answer("c", "", -9, "")["reason"] == "exit code -9"
    assert parse_answer("d", "", 1, "Traceback\nMemoryError\n")["reason"] == "exit code 1; MemoryError"


def test_the_deviation_of_few_nodes_is_taken_for_larger_than_that_of_many() -> None:
    def n_outliers(n_alike: int) -> int:
        times = [*(1.0 + 0.02 * (number % 5 - 2) for number in range(n_alike)), 1.165]
        rows = [{**row, "warm_load_real_s": time} for row, time in zip(fleet_rows(n_alike + 1), times, strict=True)]
        return sum(one.metric == "warm_load_real_s" for one in compare_fleet(columns(rows)).outliers)

    assert (n_outliers(4), n_outliers(40)) == (0, 1)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_an_address_where_nobody_listens_is_told_at_once(address: str) -> None:
    with pytest.raises(SlmtraceError, match="no Ray cluster at") as refused:
        _require_listener(address)

    assert "ray start --head" in refused.value.hint


def test_parquet_gives_back_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    rows = [*fleet_rows(5), missing_row("node-x", "dead", "gone")]

    write_parquet(rows, tmp_path / "fleet.parquet")

    assert read_parquet([tmp_path / "fleet.parquet"])["node"] == [row["node"] for row in rows]
