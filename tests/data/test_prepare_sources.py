from __future__ import annotations

import pytest

from hyperseek.data import (
    ErrorReport,
    PrepareOptions,
    QrelsOptions,
    open_dataset,
    prepare,
    read_examples,
    read_prepared,
    trained_documents,
)
from hyperseek.data.open import parse_source
from hyperseek.errors import DataError, InputError, UnknownNameError


@pytest.fixture
def rows(write_lines):
    return write_lines("pairs.jsonl", [{"query": "who", "positive": "me", "negative": "you"}])


@pytest.fixture
def hypencoder(write_lines):
    items = [{"id": "d1", "content": "yes", "score": 1}, {"id": "d2", "content": "no", "score": 0}]
    return write_lines("msmarco.jsonl.gz", [{"query": {"id": "q1", "content": "really"}, "items": items}])


def test_sources_are_joined(beir, rows, hypencoder, tmp_path):
    sources = [f"{beir}:train", f"{beir}:test", f"columns:{rows}", f"other=hypencoder:{hypencoder}"]
    info = prepare(tmp_path / "out", sources)
    assert (info.examples, info.documents, info.positives, info.negatives, info.scored) == (4, 7, 4, 3, 2)
    assert [(s.name, s.kind, s.split, s.examples) for s in info.sources] == [
        ("fruit", "qrels", "train", 1),
        ("fruit", "qrels", "test", 1),
        ("pairs", "columns", None, 1),
        ("other", "hypencoder", None, 1),
    ]
    assert info.sources[0].fingerprint == open_dataset(beir).fingerprint()
    assert all(source.fingerprint for source in info.sources)
    examples = list(read_examples(tmp_path / "out"))
    assert [example.query.id for example in examples][:2] == ["fruit/q2", "fruit/q1"]
    assert examples[1].positives[0].text == "Apple grows on trees"
    trained = trained_documents(tmp_path / "out")
    assert trained["fruit"] == {"d1", "d2"}
    assert trained["other"] == {"d1"}
    assert len(trained["pairs"]) == 1


def test_train_is_the_split_if_none_is_said(beir, tmp_path):
    info = prepare(tmp_path / "out", [beir])
    assert (info.sources[0].split, info.examples) == ("train", 1)


def test_options_reach_the_converters_and_the_record(beir, tmp_path):
    options = PrepareOptions(qrels=QrelsOptions(minimum_grade=2), task="t", instruction="i")
    info = prepare(tmp_path / "out", [f"{beir}:test"], options=options)
    assert info.options == {"qrels": {"minimum_grade": 2}, "task": "t", "instruction": "i"}
    (example,) = read_examples(tmp_path / "out")
    assert (example.task, example.instruction, example.positives[0].grade) == ("t", "i", 2)
    with pytest.raises(InputError, match="no training example is left; dropped: 1 grade_below_minimum"):
        prepare(tmp_path / "none", [beir], options=PrepareOptions(qrels=QrelsOptions(minimum_grade=2)))


def test_skipped_records_are_reported_once(beir, tmp_path):
    with (beir / "queries.jsonl").open("a") as file:
        file.write("not json\n")
    with (beir / "qrels/train.tsv").open("a") as file:
        file.write("q1\tgone\t1\n")
    with pytest.raises(DataError, match=r"queries\.jsonl:3: not valid JSON"):
        prepare(tmp_path / "out", [beir])
    assert not (tmp_path / "out").exists()
    info = prepare(tmp_path / "out", [f"{beir}:train", f"{beir}:test"], on_error="skip")
    assert ErrorReport.from_dict(info.sources[0].dropped).counts == {"bad_json": 1, "unknown_document": 1}
    assert ErrorReport.from_dict(info.sources[1].dropped).counts == {}
    assert info.dropped.counts == {"bad_json": 1, "unknown_document": 1}
    assert read_prepared(tmp_path / "out").info == info


def test_rows_with_errors_are_reported(write_lines, tmp_path):
    path = write_lines("rows.jsonl", [{"query": "q", "positive": "p"}, {"query": "q"}])
    with pytest.raises(DataError, match=r"rows\.jsonl:2: no value for 'positive'"):
        prepare(tmp_path / "out", [f"columns:{path}"])
    assert prepare(tmp_path / "out", [f"columns:{path}"], on_error="skip").dropped.counts == {"missing_field": 1}


@pytest.mark.parametrize("twice", ["{0}:train", "{0}"])
def test_a_source_given_twice(beir, tmp_path, twice):
    with pytest.raises(InputError, match="is given twice"):
        prepare(tmp_path / "out", [f"{beir}:train", twice.format(beir)])


def test_two_sources_of_one_name(beir, rows, tmp_path):
    with pytest.raises(InputError, match="are both called 'fruit'; name one, as in other=fruit="):
        prepare(tmp_path / "out", [beir, f"fruit=columns:{rows}"])


def test_no_source(tmp_path):
    with pytest.raises(InputError, match="give at least one source"):
        prepare(tmp_path / "out", [])


def test_unknown_split(beir, tmp_path):
    with pytest.raises(UnknownNameError, match="split of fruit 'dev'; known: test, train"):
        prepare(tmp_path / "out", [f"{beir}:dev"])


def test_corpus_without_judgements_says_what_to_do(rows, tmp_path):
    with pytest.raises(DataError, match=r"has no judgements to learn from; use 'columns:.* for rows"):
        prepare(tmp_path / "out", [rows])


def test_missing_table(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        prepare(tmp_path / "out", [f"columns:{tmp_path}/nothing.jsonl"])


@pytest.mark.parametrize(
    ("given", "name", "kind", "place", "split"),
    [
        ("pydocs", None, "qrels", "pydocs", None),
        ("pydocs:train", None, "qrels", "pydocs", "train"),
        ("pydocs:numpy,torch", None, "qrels", "pydocs:numpy,torch", None),
        ("docs=pydocs:numpy:dev", "docs", "qrels", "pydocs:numpy", "dev"),
        ("ir_datasets:beir/scifact", None, "qrels", "ir_datasets:beir/scifact", None),
        ("ir_datasets:beir/scifact:test", None, "qrels", "ir_datasets:beir/scifact", "test"),
        ("hub:mteb/scifact:train", None, "qrels", "hub:mteb/scifact", "train"),
        ("m=columns:hub:some/pairs#triplet:train", "m", "columns", "hub:some/pairs#triplet", "train"),
        ("hypencoder:a.jsonl", None, "hypencoder", "a.jsonl", None),
        ("nowhere:train", None, "qrels", "nowhere", "train"),
    ],
)
def test_parse_source(given, name, kind, place, split):
    parsed = parse_source(given)
    assert (parsed.given, parsed.name, parsed.kind, parsed.place, parsed.split) == (given, name, kind, place, split)


def test_parse_source_knows_folders(beir):
    assert parse_source(f"{beir}:test").split == "test"
    assert parse_source(beir).split is None
    strange = beir.parent / "a=b:c"
    strange.mkdir()
    assert parse_source(strange).place == str(strange)
