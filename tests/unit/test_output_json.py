"""breakdown.json: its schema, its sums, its bytes."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from slmtrace.model.report import SCHEMA, Report
from slmtrace.model.taxonomy import CAUSES, PHASE_MEANINGS, Cause, Phase, Stage, WindowKind
from slmtrace.output.json_ import check_conservation, read_schema, render_json
from tests.support.builders import make_report, sample_run


@pytest.fixture
def breakdown() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(render_json(sample_run()[1]))
    return data


def test_a_breakdown_fits_the_published_schema(breakdown: dict[str, Any]) -> None:
    schema = read_schema()

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(breakdown)
    jsonschema.Draft202012Validator(schema).validate(json.loads(render_json(make_report([]))))


def test_the_schema_knows_the_taxonomy_and_nothing_else() -> None:
    schema = read_schema()
    definitions = schema["$defs"]
    window = definitions["window"]["properties"]

    assert schema["properties"]["schema"]["const"] == SCHEMA
    assert definitions["cause_name"]["enum"] == [cause.label for cause in Cause]
    assert definitions["phase"]["enum"] == [phase.label for phase in Phase]
    assert definitions["phases"]["required"] == [phase.label for phase in Phase]
    meanings = {name: phase["description"] for name, phase in definitions["phases"]["properties"].items()}
    assert meanings == {phase.label: PHASE_MEANINGS[phase] for phase in Phase}
    assert window["stages"]["items"]["properties"]["stage"]["enum"] == [stage.label for stage in Stage]
    assert window["name"]["enum"] == [kind.label for kind in WindowKind]
    assert set(CAUSES) == set(Cause)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data["windows"][0]["phases"].pop("dma"),
        lambda data: data["windows"][0]["causes"][0].update(cause="gremlins"),
        lambda data: data["windows"][0].update(total_ns=1.5),
        lambda data: data["windows"][0].update(surprise=1),
        lambda data: data["sources"][0].update(status="maybe"),
        lambda data: data.update(schema="slmtrace.breakdown/2"),
    ],
)
def test_the_schema_refuses_what_is_not_a_breakdown(breakdown: dict[str, Any], damage: Any) -> None:
    damage(breakdown)

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(read_schema()).validate(breakdown)


def test_the_same_report_gives_the_same_bytes_and_survives_reading(breakdown: dict[str, Any]) -> None:
    text = render_json(sample_run()[1])

    assert render_json(Report.from_json(breakdown)) == text
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")


def test_a_sound_breakdown_has_no_complaint(breakdown: dict[str, Any]) -> None:
    assert check_conservation(breakdown) == []


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda window: window.update(total_ns=1), "load 0: phases sum to 2400000000 ns, not 1 ns"),
        (lambda window: window["phases"].update(dma=7), "load 0: causes of dma sum to 0 ns, not 7 ns"),
        (lambda window: window["causes"][0].update(ns=0), "load 0: causes of storage sum to"),
        (lambda window: window["stages"][0].update(ns=0), "load 0: stages sum to"),
        (lambda window: window["stages"][0]["phases"].update(dma=3), "load 0: dma over the stages sum to 3 ns"),
        (lambda window: window["causes"][0].update(ns=-1), "load 0: negative time in"),
    ],
)
def test_each_kind_of_wrong_sum_is_named(breakdown: dict[str, Any], damage: Any, complaint: str) -> None:
    damaged = copy.deepcopy(breakdown)
    damage(damaged["windows"][0])

    assert any(line.startswith(complaint) for line in check_conservation(damaged))
