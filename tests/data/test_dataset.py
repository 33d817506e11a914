from __future__ import annotations

import gzip
import logging
from collections import Counter
from pathlib import Path

import pytest

from hyperseek.data import Dataset, open_dataset, write_beir
from hyperseek.errors import DataError, UnknownNameError
from hyperseek.types import Document, Query

DOCUMENTS = [Document("d1", "x", "T", {"year": 1999}), Document("d2", "y"), Document("d3", "z")]
QUERIES = [Query("q1", "one"), Query("q2", "two"), Query("q3", "three")]
QRELS = {"test": {"q2": {"d1": 1, "d3": 0}}, "train": {"q1": {"d2": 2}}}


@pytest.fixture
def small() -> Dataset:
    return Dataset.from_records("small", DOCUMENTS, queries=QUERIES, qrels=QRELS)


def test_what_it_holds(small):
    assert list(small.documents()) == list(small.documents()) == DOCUMENTS
    assert small.splits == ("test", "train")
    assert small.queries() == QUERIES
    assert small.queries("test") == [QUERIES[1]]
    assert small.qrels("train") == QRELS["train"]
    assert small.count() == 3
    assert repr(small) == "Dataset('small', splits=['test', 'train'])"


def test_unknown_split(small):
    with pytest.raises(UnknownNameError, match=r"split of small 'tset'; did you mean 'test'\?; known: test, train"):
        small.qrels("tset")


@pytest.mark.parametrize(
    "change",
    [
        {"documents": [*DOCUMENTS, Document("d4", "w")]},
        {"documents": DOCUMENTS[::-1]},
        {"documents": [Document("d1", "x", "T", {"year": 2000}), *DOCUMENTS[1:]]},
        {"documents": [Document("d1", "T", "x", {"year": 1999}), *DOCUMENTS[1:]]},
        {"queries": QUERIES[:2]},
        {"qrels": {"test": {"q2": {"d1": 2, "d3": 0}}, "train": {"q1": {"d2": 2}}}},
        {"qrels": {"test": QRELS["test"]}},
    ],
)
def test_fingerprint_tells_contents_apart(small, change):
    same = {"documents": DOCUMENTS, "queries": QUERIES, "qrels": QRELS}
    other = same | change
    assert Dataset.from_records("renamed", **_arguments(same)).fingerprint() == small.fingerprint()
    assert Dataset.from_records("small", **_arguments(other)).fingerprint() != small.fingerprint()
    assert len(small.fingerprint()) == 32


def _arguments(values):
    return {"documents": values["documents"], "queries": values["queries"], "qrels": values["qrels"]}


def test_documents_are_read_once_for_all_facts():
    passes = 0

    class Counting:
        splits = ("test",)

        def documents(self, faults):
            nonlocal passes
            passes += 1
            return iter(DOCUMENTS)

        def queries(self, faults):
            return iter(QUERIES)

        def judgements(self, split, faults):
            return iter(())

    dataset = Dataset("counting", Counting())
    assert passes == 0
    assert (dataset.count(), dataset.qrels("test"), len(dataset.fingerprint())) == (3, {}, 32)
    assert passes == 1


def test_files_are_opened_no_more_often_than_needed(beir, monkeypatch):
    opened = Counter()

    def counting(path, *arguments, **options):
        opened[path.name.split(".")[0]] += 1
        return original(path, *arguments, **options)

    original = Path.open
    monkeypatch.setattr(Path, "open", counting)

    def of(call):
        opened.clear()
        call()
        return dict(opened)

    assert of(lambda: open_dataset(beir).queries()) == {"queries": 1}
    assert of(lambda: open_dataset(beir).queries("test")) == {"queries": 1, "test": 1}
    assert of(lambda: open_dataset(beir).count()) == {"corpus": 1, "test": 1, "train": 1}
    assert of(lambda: open_dataset(beir).qrels("test")) == {"corpus": 1, "queries": 1, "test": 1, "train": 1}
    assert of(lambda: open_dataset(beir).fingerprint()) == {"corpus": 1, "queries": 1, "test": 1, "train": 1}
    dataset = open_dataset(beir)
    dataset.count()
    assert of(dataset.fingerprint) == {"queries": 1, "test": 1, "train": 1}
    assert of(lambda: dataset.qrels("train")) == {"queries": 1, "train": 1}


def test_what_is_empty_is_no_collection(beir):
    (beir / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    assert open_dataset(beir).qrels("test") == {}
    with pytest.raises(DataError, match="no query of fruit is judged in the split 'test'"):
        open_dataset(beir).queries("test")
    (beir / "queries.jsonl").write_text("\n  \n")
    with pytest.raises(DataError, match=r"queries\.jsonl: has no queries"):
        open_dataset(beir).queries()
    (beir / "corpus.jsonl.gz").write_bytes(gzip.compress(b"\n \n"))
    with pytest.raises(DataError, match=r"corpus\.jsonl\.gz: has no document"):
        list(open_dataset(beir).documents())
    (beir / "corpus.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "", "text": "x"}\n'))
    with pytest.raises(DataError, match="has no documents; 1 bad_field"):
        open_dataset(beir, on_error="skip").count()


def test_duplicate_ids_in_memory():
    dataset = Dataset.from_records("twice", [DOCUMENTS[0], DOCUMENTS[0]], queries=[QUERIES[0], QUERIES[0]])
    with pytest.raises(DataError, match="twice:2: id 'd1' appears a second time"):
        dataset.count()
    with pytest.raises(DataError, match="twice:2: id 'q1' appears a second time"):
        dataset.queries()


def test_unknown_judgements_name_file_and_line(beir):
    qrels = beir / "qrels/test.tsv"
    qrels.write_text("q1\td1\t1\nq1\td9\t1\n")
    with pytest.raises(DataError, match="document 'd9' is judged but is not in the corpus") as caught:
        open_dataset(beir).qrels("test")
    assert (caught.value.path, caught.value.line) == (qrels, 2)
    qrels.write_text("q9\td1\t1\n")
    with pytest.raises(DataError, match=r"test.tsv:1: query 'q9' is judged but is not among the queries"):
        open_dataset(beir).queries("test")
    assert open_dataset(beir).qrels("train") == {"q2": {"d2": 1}}
    assert open_dataset(beir, check=False).qrels("test") == {"q9": {"d1": 1}}


def test_skipping_counts_everything_once(beir, caplog):
    with (beir / "queries.jsonl").open("a") as file:
        file.write('{"_id": "q1", "text": "again"}\n')
    (beir / "qrels/test.tsv").write_text("q1\td1\t1\nq1\td9\t1\nq9\td1\t1\nq1\td2\tx\n")
    dataset = open_dataset(beir, on_error="skip")
    with caplog.at_level(logging.WARNING):
        assert dataset.qrels("test") == dataset.qrels("test") == {"q1": {"d1": 1}}
    assert [query.id for query in dataset.queries("test")] == ["q1"]
    assert dataset.count() == 3
    expected = {"duplicate_id": 1, "unknown_document": 1, "unknown_query": 1, "bad_grade": 1}
    assert dataset.report.counts == expected
    assert set(dataset.reports()) == {"documents", "queries", "qrels test"}
    assert caplog.text.count("fruit, qrels test: left out 3 records") == 1


def test_clean_reading_reports_nothing(beir, caplog):
    dataset = open_dataset(beir, on_error="skip")
    dataset.fingerprint()
    assert not dataset.report
    assert not caplog.text


def test_beir_round_trip(small, tmp_path):
    write_beir(small, tmp_path / "out")
    copy = open_dataset(tmp_path / "out")
    assert copy.fingerprint() == small.fingerprint()
    assert list(copy.documents()) == DOCUMENTS
    assert copy.qrels("test") == QRELS["test"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_equal_collections_are_written_with_equal_bytes(small, tmp_path):
    for name in ("a", "b"):
        write_beir(small, tmp_path / name)
    for file in ("corpus.jsonl.gz", "queries.jsonl.gz", "qrels/test.tsv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_failed_writing_leaves_the_old_folder(small, tmp_path):
    write_beir(small, tmp_path / "out")
    clashing = Dataset.from_records("bad", [Document("d", "x", metadata={"text": "y"})])
    with pytest.raises(ValueError, match="metadata of 'd' has the key 'text'"):
        write_beir(clashing, tmp_path / "out", overwrite=True)
    assert open_dataset(tmp_path / "out").fingerprint() == small.fingerprint()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_other_peoples_folders_are_never_replaced(small, tmp_path):
    write_beir(small, tmp_path / "out")
    with pytest.raises(ValueError, match="exists; choose a new folder, or replace it with overwrite=True"):
        write_beir(small, tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'notes\.txt', which is not one of"):
        write_beir(small, tmp_path / "out", overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        write_beir(small, tmp_path / "out/notes.txt", overwrite=True)
