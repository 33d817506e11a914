from __future__ import annotations

import csv
import json

import pytest

from hyperseek.errors import DataError, InputError
from hyperseek.evaluation import Evaluation, Protocol, aggregate, calculate, slice_by_training


@pytest.fixture
def evaluation(small_run, small_qrels) -> Evaluation:
    values = calculate(small_run, small_qrels, "RR P@5")
    return Evaluation(
        name="system",
        per_query=values,
        aggregate=aggregate(values),
        protocol=Protocol(qrels="f", system={"prompts": {"query": "q: "}}, k=3),
        slices=slice_by_training(small_qrels, {"d1"}),
        notes=("a note",),
    )


def test_json_round_trip(evaluation, tmp_path):
    evaluation.save(tmp_path / "evaluation.json")
    assert Evaluation.load(tmp_path / "evaluation.json") == evaluation


def test_aggregates_over_slices(evaluation):
    assert evaluation.queries == ("q1", "q2", "q3")
    assert evaluation.by_slice() == {
        "all": {"RR": 0.5, "P@5": 0.2},
        "some": {"RR": 1.0, "P@5": 0.4},
        "none": {"RR": 0.0, "P@5": 0.0},
    }
    assert evaluation.over(["q1", "q2"])["RR"] == 0.75
    with pytest.raises(InputError, match="'q9'"):
        evaluation.over(["q9"])
    assert evaluation.model_copy(update={"slices": None}).by_slice() == {}


def test_per_query_export(evaluation, tmp_path):
    evaluation.write_per_query(tmp_path / "values.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "values.jsonl").read_text().splitlines()]
    assert rows[1] == {"query": "q2", "RR": 1.0, "P@5": 0.4, "seen": "some"}
    evaluation.write_per_query(tmp_path / "values.csv")
    with (tmp_path / "values.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [(row["query"], float(row["RR"]), row["seen"]) for row in table] == [
        ("q1", 0.5, "all"),
        ("q2", 1.0, "some"),
        ("q3", 0.0, "none"),
    ]
    with pytest.raises(InputError, match=r"\.jsonl or \.csv"):
        evaluation.write_per_query(tmp_path / "values.txt")


def test_files_that_hold_no_evaluation(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        Evaluation.load(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"is not an evaluation .*Expecting property name"):
        Evaluation.load(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="must hold a mapping"):
        Evaluation.load(tmp_path / "list.json")
    (tmp_path / "other.json").write_text('{"nme": "x"}')
    with pytest.raises(DataError, match="did you mean 'name'"):
        Evaluation.load(tmp_path / "other.json")


def test_results_that_contradict_themselves_are_refused(evaluation, tmp_path):
    path = tmp_path / "evaluation.json"
    evaluation.save(path)
    values = json.loads(path.read_text())
    measures = values["per_query"]
    first = next(iter(measures))
    strange = (
        {"per_query": {**measures, first: {"q1": 1.0}}},
        {"aggregate": {}},
        {"aggregate": {**values["aggregate"], "other": 1.0}},
        {"slices": {**values["slices"], "all": ["unknown"]}},
    )
    for change in strange:
        path.write_text(json.dumps({**values, **change}))
        with pytest.raises(DataError, match=r"evaluation\.json does not validate"):
            Evaluation.load(path)
