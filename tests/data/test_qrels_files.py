from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperseek.data import ErrorReport, read_qrels, write_qrels
from hyperseek.errors import DataError, InputError


def test_beir_with_and_without_header(write_lines):
    lines = ["q1\td1\t1", "q1\td 2\t0", "q2\td1\t-1"]
    expected = {"q1": {"d1": 1, "d 2": 0}, "q2": {"d1": -1}}
    assert read_qrels(write_lines("bare.tsv", lines)) == expected
    assert read_qrels(write_lines("headed.tsv.gz", ["query-id\tcorpus-id\tscore", *lines])) == expected


def test_trec(write_lines):
    expected = {"q1": {"d1": 2}, "q2": {"d2": 0}}
    assert read_qrels(write_lines("test.qrels", ["q1 0 d1 2", "q2  Q0  d2  0"])) == expected
    assert read_qrels(write_lines("test.txt", ["q1\t0\td1\t2", "q2\t0\td2\t0"])) == expected


def test_three_columns_with_blanks(write_lines):
    assert read_qrels(write_lines("test.txt", ["q1 d1 1.0"])) == {"q1": {"d1": 1}}


def test_hypencoder_json(write_lines):
    path = write_lines("qrels.json", [{"q1": {"d1": 3, "d2": 0}, "q2": {"d1": 1.0}}])
    assert read_qrels(path) == {"q1": {"d1": 3, "d2": 0}, "q2": {"d1": 1}}


def test_hypencoder_golden_qrels(golden, tmp_path):
    expected = json.loads((golden / "hypencoder/retrieval/metrics_golden.json").read_text())["qrels"]
    path = tmp_path / "qrels.json"
    path.write_text(json.dumps(expected, indent=1))
    assert read_qrels(path) == expected
    assert expected["q0"]["d98"] == 3


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        ("q1\td1", "bad_columns", "has 2 columns, but needs 3"),
        ("q1\t0\td1\t1", "bad_columns", "has 4 columns, but needs 3, like the lines before"),
        ("q1\td1\tgood", "bad_grade", "a grade must be a whole number, not 'good'"),
        ("q1\td1\t0.5", "bad_grade", "a grade must be a whole number, not '0.5'"),
        ("q1\td1\t99999999999999999999", "bad_grade", "a grade must be from -2147483647 to 2147483647, and '9999"),
        ("q1\td1\tinf", "bad_grade", "a grade must be a whole number, not 'inf'"),
        ("\td1\t1", "missing_field", "an id is empty"),
        ("q0\td0\t0", "duplicate_judgement", "document 'd0' is judged a second time for query 'q0'"),
        (b"q1\t\xff\t1", "bad_encoding", "not valid UTF-8"),
    ],
)
def test_bad_line(write_lines, line, reason, message):
    path = write_lines("test.tsv", ["query-id\tcorpus-id\tscore", "q0\td0\t1", line])
    with pytest.raises(DataError, match=r"test\.tsv:3: ") as caught:
        read_qrels(path)
    assert message in str(caught.value)
    assert caught.value.line == 3
    report = ErrorReport()
    assert read_qrels(path, on_error="skip", report=report) == {"q0": {"d0": 1}}
    assert report.counts == {reason: 1}
    assert report.examples[reason][0].startswith(f"{path}:3: ")


def test_first_line_that_is_no_judgement(write_lines):
    with pytest.raises(
        DataError, match=r"test\.txt:1: has 1 columns, but needs 3 \(query, document, grade\) or TREC's 4"
    ):
        read_qrels(write_lines("test.txt", ["nothing"]))


def test_unknown_query_and_document(write_lines):
    path = write_lines("test.tsv", ["q1\td1\t1", "q9\td1\t1", "q1\td9\t1"])
    with pytest.raises(DataError, match=r"test\.tsv:2: query 'q9' is judged but is not among the queries"):
        read_qrels(path, queries={"q1"})
    with pytest.raises(DataError, match=r"test\.tsv:3: document 'd9' is judged but is not in the corpus"):
        read_qrels(path, documents=["d1"])
    report = ErrorReport()
    assert read_qrels(path, queries={"q1"}, documents={"d1"}, on_error="skip", report=report) == {"q1": {"d1": 1}}
    assert report.counts == {"unknown_query": 1, "unknown_document": 1}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('{\n"q1": {"d1": 1},\n"q2": {"d1" 1}}', 3, "not valid JSON"),
        ("[]", 1, "must be one object"),
        ('{"": {"d1": 1}}', None, "the id of a query is empty"),
        ('{"q1": {"": 1}}', None, "query 'q1', document '': the id of the document is empty"),
        ('{"q1": 5}', None, "query 'q1' must hold an object {document: grade}, not 5"),
        ('{"q1": {"d1": "1"}}', None, "query 'q1', document 'd1': a grade must be a whole number, not the text '1'"),
        ('{"q1": {"d1": 0.5}}', None, "a grade must be a whole number, not 0.5"),
        ('{"q1": {"d1": 1, "d1": 2}}', None, "document 'd1' is judged a second time for query 'q1'"),
    ],
)
def test_bad_json(tmp_path, text, line, message):
    path = tmp_path / "qrels.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_qrels(path)
    assert message in str(caught.value)
    assert (caught.value.path, caught.value.line) == (path, line)


ids = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\ufeff"), min_size=1).filter(
    lambda t: not t.isspace()
)
plain_ids = st.text(st.characters(codec="utf-8", exclude_characters=" \t\r\n\ufeff"), min_size=1)
grades = st.integers(-3, 9)


def qrels_of(identity):
    return st.dictionaries(identity, st.dictionaries(identity, grades, min_size=1), max_size=4)


@settings(max_examples=40, deadline=None)
@given(qrels_of(ids))
def test_beir_round_trip(tmp_path_factory, qrels):
    path = tmp_path_factory.mktemp("qrels") / "test.tsv"
    write_qrels(qrels, path)
    assert read_qrels(path) == qrels


@settings(max_examples=40, deadline=None)
@given(qrels_of(plain_ids))
def test_trec_round_trip(tmp_path_factory, qrels):
    path = tmp_path_factory.mktemp("qrels") / "test.qrels"
    write_qrels(qrels, path)
    assert read_qrels(path) == qrels


@pytest.mark.parametrize(
    ("name", "identity"), [("a.tsv", "d\t1"), ("a.tsv", ""), ("a.qrels", "d 1"), ("a.qrels", "d\n1")]
)
def test_ids_that_cannot_be_written(tmp_path, name, identity):
    with pytest.raises(InputError, match="cannot write id"):
        write_qrels({"q": {identity: 1}}, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
