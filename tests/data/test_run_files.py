from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperseek.data import ErrorReport, read_run, trec_lines, write_run
from hyperseek.errors import DataError, InputError


def test_written_lines_are_trec():
    run = {"q1": {"d1": 0.5, "d2": 2.0}, "q2": {"d1": -1.0}}
    assert list(trec_lines(run, tag="mine")) == [
        "q1 Q0 d2 1 2.0 mine",
        "q1 Q0 d1 2 0.5 mine",
        "q2 Q0 d1 1 -1.0 mine",
    ]


def test_ir_measures_reads_what_is_written(tmp_path):
    import ir_measures

    write_run({"q1": {"d1": 0.25, "d2": 0.75}}, tmp_path / "run.trec")
    read = [tuple(row) for row in ir_measures.read_trec_run(str(tmp_path / "run.trec"))]
    assert read == [("q1", "d2", 0.75), ("q1", "d1", 0.25)]


def test_order_comes_from_scores_and_ties_keep_theirs(write_lines):
    path = write_lines("run.trec", ["q Q0 a 1 1.0 t", "q Q0 b 2 3 t", "q\tQ0\tc d\t3\t1.0\tt"])
    assert list(read_run(path)["q"].items()) == [("b", 3.0), ("a", 1.0), ("c d", 1.0)]


def test_hypencoder_golden_results(golden):
    path = golden / "hypencoder/retrieval/retrieved_items.sample.jsonl"
    expected = json.loads(path.read_text().splitlines()[0])
    run = read_run(path)
    assert list(run) == ["q0"]
    assert list(run["q0"].items()) == [(item["id"], item["score"]) for item in expected["items"]]
    assert next(iter(run["q0"].items())) == ("d298", 4.426910400390625)


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        ("q Q0 d2 1 0.5", "bad_columns", "has 5 columns, but a TREC run has 6"),
        ("q Q0 d2 1 high t", "bad_score", "the score must be a number, not 'high'"),
        ("q Q0 d2 1 nan t", "bad_score", "the score must be a number, not 'nan'"),
        ("q\tQ0\t\t1\t0.5\tt", "missing_field", "an id is empty"),
        ("q Q0 d1 2 0.1 t", "duplicate_document", "document 'd1' appears a second time in the ranking of query 'q'"),
    ],
)
def test_bad_line(write_lines, line, reason, message):
    path = write_lines("run.trec", ["q Q0 d1 1 0.9 t", line])
    with pytest.raises(DataError) as caught:
        read_run(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)
    report = ErrorReport()
    assert read_run(path, on_error="skip", report=report) == {"q": {"d1": 0.9}}
    assert report.counts == {reason: 1}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"items": []}, 'needs {"query"'),
        ({"query": {"id": "q"}}, 'needs {"query"'),
        ({"query": {"id": "q"}, "items": [{"id": "d"}]}, "an item needs an id and a numeric score"),
        ({"query": {"id": "q"}, "items": ["d"]}, "an item needs an id and a numeric score, not 'd'"),
    ],
)
def test_bad_json_line(write_lines, record, message):
    path = write_lines("run.jsonl", [{"query": {"id": "p"}, "items": [{"id": "d", "score": 1}]}, record])
    with pytest.raises(DataError) as caught:
        read_run(path)
    assert message in str(caught.value)
    assert caught.value.line == 2


@pytest.mark.parametrize("run", [{"q": {"d": math.nan}}, {"q": {"d\t": 1.0}}, {"": {"d": 1.0}}])
def test_what_cannot_be_written(tmp_path, run):
    with pytest.raises(InputError):
        write_run(run, tmp_path / "run.trec")
    assert list(tmp_path.iterdir()) == []


ids = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\ufeff"), min_size=1).filter(
    lambda t: not t.isspace()
)
scores = st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(ids, st.dictionaries(ids, scores, min_size=1), max_size=4))
def test_round_trip(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("run") / "run.trec"
    write_run(run, path)
    read = read_run(path)
    assert read == run
    for ranking in read.values():
        assert list(ranking.values()) == sorted(ranking.values(), reverse=True)
