"""Entries made here and registered in the catalogue; nothing is downloaded."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from hyperseek.data import open_dataset
from hyperseek.errors import DataError, MissingExtraError, UnknownNameError
from hyperseek.types import Document, Query


class TitledDoc(NamedTuple):
    doc_id: str
    title: str
    body: str
    url: str

    def default_text(self) -> str:
        return f"{self.title} {self.body}"


class PageDoc(NamedTuple):
    doc_id: str
    page_title: str
    text: str

    def default_text(self) -> str:
        return f"{self.page_title} {self.text}"


class OddDoc(NamedTuple):
    doc_id: str
    headline: str
    content: bytes

    def default_text(self) -> str:
        return f"{self.headline}!"


class TopicQuery(NamedTuple):
    query_id: str
    title: str
    description: str

    def default_text(self) -> str:
        return self.title


class Judged(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int
    iteration: str = "0"


@pytest.fixture(autouse=True)
def _entries(monkeypatch, tmp_path):
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path))
    catalogue = pytest.importorskip("ir_datasets")
    monkeypatch.setattr(catalogue.registry, "_registered", dict(catalogue.registry._registered))

    class Documents(catalogue.formats.BaseDocs):
        def __init__(self, *records):
            self.docs_iter = lambda: iter(records)

    class Queries(catalogue.formats.BaseQueries):
        def __init__(self, *records):
            self.queries_iter = lambda: iter(records)

    class Qrels(catalogue.formats.BaseQrels):
        def __init__(self, *records):
            self.qrels_iter = lambda: iter(records)

    def register(name, *handlers):
        catalogue.registry.register(name, catalogue.Dataset(*handlers))

    documents = Documents(TitledDoc("d1", "T", "x", "u"), TitledDoc("d2", "", "y", "v"))
    first, second = TopicQuery("q1", "one", "more"), TopicQuery("q2", "two", "more")
    register("toys", documents)
    register("toys/train", documents, Queries(first), Qrels(Judged("q1", "d1", 1)))
    register("toys/test", documents, Queries(second), Qrels(Judged("q2", "d2", 2), Judged("q2", "gone", 1)))
    register("pages", Documents(PageDoc("p", "Page", "text")))
    register("odd", Documents(OddDoc("o", "Head", b"raw")))
    damaged = Documents()
    damaged.docs_iter = (tmp_path / "never-downloaded").open
    register("damaged", damaged)
    register("strange", documents, Queries(first), Qrels(Judged("q1", "d1", 10**30), Judged("q1", "d2", 1)))
    register("queries-only", Queries(first, second))


def test_one_entry():
    dataset = open_dataset("ir_datasets:toys/test")
    assert (dataset.name, dataset.splits, dataset.count()) == ("toys", ("test",), 2)
    assert next(dataset.documents()) == Document("d1", "x", "T", {"url": "u"})
    assert dataset.queries() == [Query("q2", "two", {"title": "two", "description": "more"})]
    assert dataset.qrels("test") == {"q2": {"d2": 2, "gone": 1}}


def test_entries_below_are_splits():
    dataset = open_dataset("ir_datasets:toys")
    assert dataset.splits == ("test", "train")
    assert [query.id for query in dataset.queries()] == ["q2", "q1"]
    assert [query.id for query in dataset.queries("train")] == ["q1"]


def test_unknown_documents_are_an_error_only_if_asked():
    with pytest.raises(DataError, match="ir_datasets:toys/test test:2: document 'gone' is judged"):
        open_dataset("ir_datasets:toys/test", check=True).qrels("test")


def test_what_goes_wrong_in_the_catalogue_is_an_error_of_ours():
    with pytest.raises(DataError, match="ir_datasets:damaged: cannot be read by ir_datasets: FileNotFoundError"):
        list(open_dataset("ir_datasets:damaged").documents())
    with pytest.raises(DataError, match="strange strange:1: a grade must be from -2147483647 to 2147483647"):
        open_dataset("ir_datasets:strange").qrels("strange")
    assert open_dataset("ir_datasets:strange", on_error="skip").qrels("strange") == {"q1": {"d2": 1}}


def test_page_title_is_a_title():
    assert list(open_dataset("ir_datasets:pages").documents()) == [Document("p", "text", "Page")]


def test_default_text_where_no_field_is_known():
    assert list(open_dataset("ir_datasets:odd").documents()) == [Document("o", "Head!", "", {"headline": "Head"})]


def test_real_entries_share_their_corpus_name():
    assert open_dataset("ir_datasets:beir/scifact/test").name == "beir-scifact"
    assert open_dataset("ir_datasets:beir/scifact").splits == ("test", "train")


def test_unknown_entry():
    with pytest.raises(UnknownNameError, match="unknown ir_datasets id 'toys/tset'; did you mean 'toys/test'"):
        open_dataset("ir_datasets:toys/tset")


def test_entry_without_documents():
    with pytest.raises(UnknownNameError, match="ir_datasets id with documents 'queries-only'"):
        open_dataset("ir_datasets:queries-only")


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hyperseek\[hub\]'"):
        open_dataset("ir_datasets:toys")
