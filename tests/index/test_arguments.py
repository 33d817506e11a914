"""What a search is given: whatever is wrong with it is said once, in our words, before anything is loaded."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from index_fakes import FakeRetriever

from hyperseek import HyperseekError
from hyperseek.errors import ArgumentError, ConfigError, InputError, MissingDocumentError, WriteError
from hyperseek.evaluation import evaluate
from hyperseek.index import Index
from hyperseek.plan import Auto, Exhaustive, FullText, Rescore, _open_index
from hyperseek.scoring import LinearScorer
from hyperseek.types import Document, Hit, Query


class Counting(FakeRetriever):
    compiled = 0

    def compile_batches(self, queries: Sequence[str], options: Any = None) -> Any:
        self.compiled += len(queries)
        return super().compile_batches(queries, options)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    documents = [Document(f"d{n}", f"river stone n{n}", f"title {n}", metadata={"n": n}) for n in range(40)]
    folder = tmp_path_factory.mktemp("asked") / "index"
    return Index.build(folder, documents, Counting(), dtype="float32")  # type: ignore[arg-type]


def refused(call: Callable[[], object], *words: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message) < 1500
    assert not any(foreign in message for foreign in ("pydantic", "validator", "Input should", "Value error"))


def test_a_wrong_argument_is_named_before_anything_is_compiled(index: Index) -> None:
    model: Counting = index.model  # type: ignore[assignment]
    before = model.compiled
    search: Any = index.search
    for k in (2.5, True, None, "3", 0, -1, [3], np.float32(3), np.bool_(True), float("nan"), 1j):
        refused(lambda k=k: search("river", k=k), "k must be")
        refused(lambda k=k: index.explain(["river"], k=k), "k must be")
        refused(lambda k=k: index.run({"q": "river"}, k=k), "k must be")
        refused(lambda k=k: index.engines.tune(["river"], k=k), "k must be")
    for queries in (None, 3, 2.5, b"river", bytearray(b"x"), {"river"}, object(), np.array(3)):
        refused(lambda queries=queries: search(queries), "queries are a text, a list of texts, or a scorer")
    refused(lambda: search({"q": "river"}), "run()")
    for queries in ([None], ["river", 3], [["river"]], [b"river"], ["river", "\ud800"]):
        refused(lambda queries=queries: search(queries), f"query {len(queries) - 1} (from 0)")
    refused(lambda: search("river", where={"n": 5, "v": "it's"}), "write where=", "n = 5 AND v = 'it''s'")
    for where in ("", " ", 3, ["n > 3"], True, b"n > 3"):
        refused(lambda where=where: search("river", where=where), "where must be SQL text")
    for engine in (None, 3, ["exact"], Exhaustive()):
        refused(lambda engine=engine: search("river", engine=engine), "engine must be 'auto', 'exact', or the name")
    for exclude in ("d1", {"d1"}, 3, [3], [b"d1"], {"a": "b"}):
        refused(lambda exclude=exclude: search("river", exclude=exclude), "exclude must be a list")
    for texts in ("yes", None, 1, np.ones(2)):
        refused(lambda texts=texts: search("river", texts=texts), "texts must be True or False")
    for ids in ("d1", ["d1"], None, [[1]], [None], torch.ones(1)):
        refused(lambda ids=ids: index.score(["river"], ids), "ids must be a list of ids for each query")
    for recall in (0, 2, None, "1", True, float("nan")):
        refused(lambda recall=recall: index.engines.tune(["river"], recall=recall), "recall in (0, 1]")
    for queries in (["river"], "river", None, [Document("a", "b")]):
        refused(lambda queries=queries: index.run(queries), "texts by id")
    refused(lambda: index.run([Query("q", "a"), Query("q", "b")]), "ids must be unique")
    refused(lambda: index.engines.tune([]), "no queries to tune with")
    refused(lambda: index.explain([]), "no queries to explain")
    assert model.compiled == before


def test_a_blank_query_is_refused(index: Index) -> None:
    for blank in ("", " ", "\n\t", "\u3000", "\u200b", "\ufeff \u2060"):  # the last ones are invisible
        refused(lambda blank=blank: index.search(blank), "blank")
        refused(lambda blank=blank: index.search(["river", blank]), "query 1 (from 0) is blank")
        refused(lambda blank=blank: index.explain([blank]), "query 0 (from 0) is blank")
        refused(lambda blank=blank: index.score([blank], [["d1"]]), "blank")
        refused(lambda blank=blank: index.engines.tune([blank]), "blank")
        refused(lambda blank=blank: index.run({"q1": "river", "q7": blank}), "query 'q7' is blank")
        refused(lambda blank=blank: index.run([Query("q7", blank)]), "query 'q7' is blank")


def test_what_is_right_in_another_type_is_taken(index: Index) -> None:
    expected = index.search(["river", "stone n3"], k=3)
    for queries in (("river", "stone n3"), np.array(["river", "stone n3"]), iter(["river", "stone n3"])):
        assert index.search(queries, k=np.int64(3)) == expected  # type: ignore[call-overload]
    assert index.search([]) == []
    assert index.run({}) == {}
    assert len(index.search("river", k=10**30)) == 40
    assert len(index.search("river", k=10**30, exclude=["d3"])) == 39
    assert len(index.search("river", k=10**30, plan=FullText(n=10**30) >> Rescore())) == 40
    scorer = LinearScorer(index.space, torch.ones(1, 8))
    assert index.explain(scorer, k=2, texts=True, exclude=["d3"]).hits == index.search(scorer, k=2, exclude=["d3"])


def test_names_of_arguments_that_hands_type_by_habit(index: Index) -> None:
    habits = {
        "k": ("top_k", "topk", "limit", "n", "Top_K", "n_results", "kk"),
        "where": ("filter", "filters", "condition", "wher"),
        "queries": ("query", "text", "q", "queris"),
    }
    calls: Any = (index.search, index.explain, index.run, index.engines.tune)
    for call in calls:
        for name, typed in habits.items():
            for word in typed:
                if name == "where" and call.__name__ == "tune":
                    continue
                refused(lambda call=call, word=word: call(["river"], **{word: 3}), f"{word!r}", f"{name!r}")
    with pytest.raises(TypeError, match="everything else by name, as in k=10"):
        index.search("river", 5)  # type: ignore[call-overload,misc]
    with pytest.raises(ArgumentError, match="arguments: queries, ids"):
        index.score(["river"], [["d1"]], frobnicate=1)  # type: ignore[call-arg]
    assert index.search.__doc__
    assert "queries" in index.search.__annotations__


def test_a_hit_has_what_its_document_has(index: Index) -> None:
    [hit] = index.search("stone n7", k=1)
    document = hit.document
    assert document is not None
    assert (hit.title, hit.text, hit.metadata) == (document.title, document.text, document.metadata)
    assert repr(hit).startswith(f"Hit(1, {hit.id!r}, score=")
    assert document.text in repr(hit)
    long = Hit("a", 0.25, 2, Document("a", "many words " * 9999))
    assert len(repr(long)) < 120
    [bare] = index.search("river", k=1, texts=False)
    for name in ("title", "text", "metadata"):
        refused(lambda name=name: getattr(bare, name), name, "texts=False")
    assert repr(bare).endswith(")")


def test_an_index_holds_documents(index: Index) -> None:
    assert [document.id for document in itertools.islice(index, 3)] == ["d0", "d1", "d2"]
    assert list(index) == list(index.documents())
    assert index["d7"] == index.get("d7") == index.get(["d7"])["d7"]
    assert index["d7"].text == "river stone n7"
    assert "d7" in index
    for name in ("d99", "", "D7"):
        assert name not in index
        assert index.get(name) is None
        assert index.get([name, "d7"]) == {"d7": index["d7"]}
        with pytest.raises(MissingDocumentError, match="holds no document"):
            index[name]
    for odd in (3, None, b"d7", slice(2)):
        assert odd not in index
        with pytest.raises(KeyError, match="holds no document"):
            index[odd]  # type: ignore[index]
        refused(lambda odd=odd: index.get([odd]), "is not an id")
    assert "40 documents" in repr(index)
    assert "no engine" in repr(index)
    assert repr(index.model.compile(["a", "b"])) == f"LinearScorer(2 queries for {index.space}, cpu)"


def test_an_explanation_searches_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Counting = index.model  # type: ignore[assignment]
    scans: list[int] = []
    scan = _open_index.Search.scan

    def counted(self: _open_index.Search, scorer: Any, **options: Any) -> Any:
        scans.append(len(scorer))
        return scan(self, scorer, **options)

    monkeypatch.setattr(_open_index.Search, "scan", counted)
    queries = [f"river n{n}" for n in range(7)]  # three groups of three at most
    monkeypatch.setattr("hyperseek.index.searching._NUMBERS", 1)
    before = model.compiled
    told = index.explain(queries, k=5, recall=True)
    assert model.compiled - before == 7
    assert scans == [3, 3, 1]
    assert [stage.recall for stage in told.stages] == [1.0]
    assert [[hit.id for hit in hits] for hits in told.hits] == [
        [hit.id for hit in hits] for hits in index.search(queries, k=5)
    ]
    scans.clear()
    told = index.explain(queries, k=5, recall=True, plan=FullText(n=9) >> Rescore())
    assert scans == [3, 3, 1]  # for the truth alone
    scans.clear()
    index.explain(queries, k=5, recall=True, plan=(FullText(n=9) | Auto(n=9)) >> Rescore())
    assert scans == [3, 3, 1]


def test_notes_are_averaged_over_all_groups_of_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document(f"d{n}", f"river stone n{n}") for n in range(600)]
    index = Index.build(tmp_path / "index", documents, FakeRetriever(), dtype="float32")  # type: ignore[arg-type]
    index.build_graph(degree=4)
    index.build_engine("flat")
    index.add([Document("new", "stone")])
    monkeypatch.setattr("hyperseek.index.searching._NUMBERS", 1)
    queries = [f"river n{n} stone" for n in range(7)]
    plan = {"kind": "graph", "n": 3, "walk": {"ncandidates": 4, "num_entry_points": 5}}
    alone = [index.explain([query], plan=plan).stages[0].notes["scored"] for query in queries]
    assert len(set(alone)) > 1
    assert index.explain(queries, plan=plan).stages[0].notes["scored"] == pytest.approx(sum(alone) / 7)
    notes = index.explain(queries, engine="flat").stages[0].notes
    assert notes == {"unknown to 'flat'": pytest.approx(1)}


def test_errors_keep_their_place_in_the_tree() -> None:
    assert issubclass(ArgumentError, TypeError)
    assert issubclass(MissingDocumentError, KeyError)
    assert issubclass(ArgumentError, HyperseekError)
    assert str(MissingDocumentError("no document 'x'")) == "no document 'x'"


def test_models_paths_and_collections_are_what_they_should_be(index: Index, tmp_path: Path) -> None:
    build: Any = Index.build
    for model in ("minilm", Path("minilm"), None, 3, Index, index):
        refused(lambda model=model: build(tmp_path / "new", ["river"], model), "model must be", "hyperseek.load(")
        if model is not None:
            refused(lambda model=model: Index.open(index.path, model=model), "model must be", "hyperseek.load(")
            refused(lambda model=model: Index.from_vectors(tmp_path / "new", [], model=model), "model must be")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (None, 3, "a" * 300, "a\0b", "\ud800", tmp_path / ("a" * 300) / "x", tmp_path / "loop" / "x"):
        refused(lambda path=path: Index.open(path), "the folder of an index")
        refused(lambda path=path: build(path, ["river"], FakeRetriever()), "the folder of an index")
    with pytest.raises(WriteError, match="cannot be written"):
        build("/proc/none/index", ["river"], FakeRetriever())
    assert {path.name for path in tmp_path.iterdir()} == {"loop"}
    for dataset in (None, "pydocs", Path("pydocs"), 3):
        refused(lambda dataset=dataset: evaluate(index, dataset), "dataset must be", "open_dataset(")
    for ids in (None, 3, "d1"):
        refused(lambda ids=ids: index.delete(ids), "ids must be")
    for engine in (None, 3, ["hnsw"]):
        with pytest.raises(ConfigError, match="an engine is given by its kind"):
            index.build_engine(engine)
