"""Documents of whatever a person has at hand."""

from __future__ import annotations

import datetime
import sys
from collections import namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hyperseek import Document
from hyperseek._documents import as_documents, joined
from hyperseek.data import Dataset
from hyperseek.errors import InputError

sys.path.append(str(Path(__file__).parent / "index"))  # for `index_fakes`

EXPECTED = [Document("007", "one two", "T", {"year": 1999}), Document("8", "NA", "", {"year": 5})]
ROWS = [
    {"docid": "007", "Contents": "one two", "title": "T", "year": 1999},
    {"docid": "8", "Contents": "NA", "title": None, "year": 5},
]


def tables() -> dict[str, Any]:
    import datasets
    import pandas
    import polars
    import pyarrow

    frame = pandas.DataFrame(ROWS)
    arrow = pyarrow.Table.from_pylist(ROWS)
    return {
        "mappings": ROWS,
        "generator": (row for row in ROWS),
        "pandas": frame,
        "pandas with an index": frame.set_index("docid"),
        "pyarrow": arrow,
        "record batch": arrow.to_batches()[0],
        "polars": polars.DataFrame(ROWS),
        "datasets": datasets.Dataset.from_list(ROWS),
        "collection": Dataset.from_records("any", EXPECTED),
        "as they were": [asdict(document) for document in EXPECTED],
        "numpy": [{key: np.array(value)[()] for key, value in row.items()} for row in ROWS],
    }


def test_records_and_tables_become_documents() -> None:
    for name, given in tables().items():
        assert list(as_documents(given)) == EXPECTED, name


def test_texts_and_tuples() -> None:
    import pyarrow

    numbered = [Document("0", "cat"), Document("1", "")]
    for given in (["cat", ""], ("cat", ""), np.array(["cat", ""]), pyarrow.array(["cat", ""]), iter(["cat", ""])):
        assert list(as_documents(given)) == numbered
        assert all(type(document.text) is str for document in as_documents(["cat", ""]))
    assert list(as_documents([("a", "x"), (7, "y", "T"), (np.int64(8), "z", None)])) == [
        Document("a", "x"),
        Document("7", "y", "T"),
        Document("8", "z"),
    ]
    record = namedtuple("record", ["doc_id", "text", "url"])
    assert list(as_documents([record("a", "x", "u")])) == [Document("a", "x", "", {"url": "u"})]
    assert list(as_documents([])) == []


def test_values_of_tables_become_plain() -> None:
    import pandas

    moment = datetime.datetime(2020, 1, 2, 3, 4)
    frame = pandas.DataFrame(
        {"id": ["a", "b"], "text": ["x", "y"], "n": [1.5, None], "at": [moment, None], "many": [np.array([1, 2]), None]}
    )
    first, second = as_documents(frame)
    assert first.metadata == {"n": 1.5, "at": "2020-01-02T03:04:00", "many": [1, 2]}
    assert second.metadata == {"n": None, "at": None, "many": None}
    assert type(first.metadata["n"]) is float


def test_reading_is_lazy() -> None:
    def endless() -> Iterator[tuple[int, str]]:
        number = 0
        while True:
            yield number, "x"
            number += 1

    documents = as_documents(endless())
    assert [next(documents).id for _ in range(3)] == ["0", "1", "2"]


def refused() -> list[tuple[object, str]]:
    import datasets
    import pandas
    import polars

    class Strange:
        def __repr__(self) -> str:
            raise ValueError

    frame = pandas.DataFrame(ROWS)
    endless: dict[str, object] = {}
    endless["again"] = endless
    return [
        ("corpus.jsonl", r"give open_dataset\(PATH\)"),
        (Path("corpus.jsonl"), r"give open_dataset\(PATH\)"),
        (b"text", r"give \[TEXT\]"),
        (None, "must be an iterable"),
        (5, "must be an iterable"),
        (Document("a", "b"), r"give \[DOCUMENT\]"),
        (ROWS[0], "a list of records"),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)), "'train'.*one of its parts"),
        ({"a", "b"}, "sorted"),
        (polars.DataFrame(ROWS).lazy(), "in-memory"),
        (pandas.concat([frame, frame["title"]], axis=1), "'title' appears twice"),
        (frame.drop(columns="docid"), "position 0 has no id.*'Contents'"),
        (frame.assign(docid=[1.0, 2.5]), "position 0 must be a string or a whole number, not 1.0"),
        (frame.assign(Contents=["x", None]), "at position 1 .*text must be a string, not None"),
        ([Document("a", "b"), Document(1, None)], "at position 1 .*an id must be a non-empty string"),  # type: ignore[arg-type]
        ([Document("a", None)], "'a' at position 0 .*its text must be a string"),  # type: ignore[arg-type]
        ([Document("a", "b", None)], "its title must be a string"),  # type: ignore[arg-type]
        ([Document("a", "b", "", [])], "its metadata must be a mapping"),  # type: ignore[arg-type]
        ([Document("a", "b", "", {1: 2})], "its metadata must be a mapping"),  # type: ignore[dict-item]
        ([Document("", "b")], "non-empty string"),
        (["a", None], "position 1 .*holds None"),
        (["a", b"b"], "position 1 .*holds b'b'"),
        ([("a",)], r"position 0 .*holds \('a',\)"),
        ([("a", "b", "c", "d")], "position 0"),
        ([("a", None)], "its text must be a string"),
        ([("", "b")], "the id of the document at position 0"),
        ([(True, "b")], "the id of the document at position 0"),
        ([("a", "b", 5)], "its title must be a string"),
        ([["a", "b"]], "position 0"),
        ([np.zeros(3)], "position 0"),
        ([Strange()], "position 0"),
        ([{}], "position 0 has no id"),
        ([{"id": "a"}], "position 0 has no text"),
        ([{"id": "a", "text": "b"}, {"_id": "a", "text": "b"}], "position 1 lacks the key 'id'"),
        ([{"id": 10**5000, "text": "b"}], "whole number"),
        ([{"id": "a", "text": "b", "more": endless}], "nested too deeply"),
    ]


def test_what_is_no_document_is_named_with_its_position() -> None:
    for given, message in refused():
        with pytest.raises(InputError, match=message):
            list(as_documents(given))


def test_texts_alone_replace_nothing() -> None:
    with pytest.raises(InputError, match=r"give \(id, text\)"):
        list(as_documents(["x"], numbered=False))
    assert list(as_documents([("a", "x")], numbered=False)) == [Document("a", "x")]


def test_every_document_has_a_vector() -> None:
    documents = [Document("a", "x"), Document("b", "y")]
    assert list(joined(documents, np.eye(2)))[1][0] == documents[1]
    with pytest.raises(InputError, match="only 1 vectors"):
        list(joined(documents, [[1]]))
    with pytest.raises(InputError, match="only 2 documents"):
        list(joined(documents, [[1], [2], [3]]))


def test_an_index_takes_them_all(tmp_path: Path) -> None:
    from index_fakes import DIMENSION, FakeRetriever

    from hyperseek.index import Index
    from hyperseek.scoring import Space

    given: Mapping[str, Any] = tables()
    for name, table in given.items():
        if name not in ("mappings", "pandas", "datasets"):
            continue
        index = Index.build(tmp_path / name, table, FakeRetriever())
        assert list(index.documents()) == EXPECTED, name
    index = Index.build(tmp_path / "texts", ["cat", "dog"], FakeRetriever())
    assert index.ids == ["0", "1"]
    assert index.add([("bird", "a bird")]) == 1
    assert index.add([{"id": 1, "text": "new"}], replace=True) == 1
    assert index.get(["1"])["1"].text == "new"
    with pytest.raises(InputError, match="replacing needs ids"):
        index.add(["other"], replace=True)
    with pytest.raises(InputError, match="only 1 vectors"):
        index.add([("e", "x"), ("f", "y")], vectors=[np.zeros(DIMENSION)])
    with pytest.raises(InputError, match="open_dataset"):
        Index.build(tmp_path / "none", "corpus.jsonl", FakeRetriever())
    assert not (tmp_path / "none").exists()
    pairs = [("a text", np.zeros(DIMENSION)), (("own", "id"), np.ones(DIMENSION))]
    assert Index.from_vectors(tmp_path / "pairs", pairs, Space("dot", DIMENSION)).ids == ["0", "own"]
    with pytest.raises(InputError, match="position 0 must be a pair"):
        Index.from_vectors(tmp_path / "single", [Document("a", "b")], Space("dot", DIMENSION))
