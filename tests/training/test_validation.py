"""Validation measures what trec_eval would, on the documents it should."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import ir_measures
import pytest

from hyperseek import Document, HyperseekError, Index, Query
from hyperseek._relevance import measure
from hyperseek.models import Retriever
from hyperseek.training._cache import FeatureCache, SideFeatures
from hyperseek.training._validation import DevSet, Validator, make_dev_set

MakeRetriever = Callable[..., Retriever]


@pytest.mark.parametrize("metric", ["nDCG@5", "RR@3", "R@4", "nDCG@100"])
def test_measures_are_those_of_ir_measures(metric: str) -> None:
    draw = random.Random(0)
    for _ in range(50):
        documents = [f"d{place}" for place in range(12)]
        qrels = {document: draw.choice([0, 0, 1, 2, -1]) for document in draw.sample(documents, 7)} | {"d0": 1}
        ranked = draw.sample(documents, 8)
        run = {document: float(-rank) for rank, document in enumerate(ranked)}
        wanted = ir_measures.calc_aggregate([ir_measures.parse_measure(metric)], {"q": qrels}, {"q": run})
        found = measure(metric, [qrels.get(document, 0) for document in ranked], list(qrels.values()))
        assert found == pytest.approx(next(iter(wanted.values())), abs=1e-9)


def test_an_unknown_measure_is_an_error() -> None:
    with pytest.raises(HyperseekError, match="nDCG@10"):
        measure("MAP@10", [1], [1])


QUERIES = [Query("q1", "cat"), Query("q2", "dog"), Query("q3", "sea")]
DOCUMENTS = {f"d{place}": f"text {place}" for place in range(10)}
QRELS = {"q1": {"d3": 1, "d4": 0}, "q2": {"d0": 0}, "q3": {"d5": 2, "gone": 1}}


def test_a_dev_set_keeps_queries_with_relevant_documents_and_all_judged_documents() -> None:
    dev_set = make_dev_set(DOCUMENTS, QUERIES, QRELS, max_documents=5)
    assert dev_set.queries == ["cat", "sea"]
    assert len(dev_set.documents) == 5
    judged = [{dev_set.documents[place]: grade for place, grade in grades.items()} for grades in dev_set.grades]
    assert judged == [{"text 3": 1, "text 4": 0}, {"text 5": 2}]
    assert make_dev_set(DOCUMENTS, QUERIES, QRELS, max_documents=5) == dev_set
    assert len(make_dev_set(DOCUMENTS, QUERIES, QRELS, max_queries=1).queries) == 1
    with pytest.raises(HyperseekError, match="no query"):
        make_dev_set(DOCUMENTS, QUERIES, {"q2": {"d0": 0}})


@pytest.mark.parametrize("options", [{}, {"family": "dense"}])
def test_cached_and_fresh_validation_agree(
    make_retriever: MakeRetriever, toy_texts: tuple[list[str], list[str]], tmp_path: Path, options: dict[str, str]
) -> None:
    documents, queries = toy_texts
    dev_set = DevSet(queries, documents, [{place: 1} for place in range(len(queries))])
    retriever = make_retriever(**options)
    fresh = Validator(
        {"toy": dev_set},
        "nDCG@10",
        SideFeatures(retriever, "query"),
        SideFeatures(retriever, "document"),
        encode_dtype="float32",
    )
    sides = [
        SideFeatures(
            retriever,
            side,
            FeatureCache(tmp_path, retriever, side, stop=3, tokens=side == "query", storage="float32", dtype="float32"),
        )
        for side in ("query", "document")
    ]
    cached = Validator({"toy": dev_set, "again": dev_set}, "nDCG@10", *sides)
    cached.prepare()
    retriever.model.train()
    scores = cached()
    assert retriever.model.training
    assert 0.05 < scores["toy"] < 1
    assert scores["mean"] == pytest.approx(scores["toy"])
    assert fresh()["toy"] == pytest.approx(scores["toy"], abs=1e-6)


def test_ties_rank_in_the_order_of_the_corpus(
    make_retriever: MakeRetriever, toy_texts: tuple[list[str], list[str]], tmp_path: Path
) -> None:
    texts, queries = toy_texts
    documents = {f"d{place}": text for place, text in enumerate([texts[0]] * 3 + [texts[1]] + [texts[0]] * 3)}
    retriever = make_retriever()
    sides = [SideFeatures(retriever, side) for side in ("query", "document")]
    stored = [Document(name, text) for name, text in documents.items()]
    index = Index.build(tmp_path / "index", stored, retriever, dtype="float32")
    ranked = list(index.run({"q": queries[0]}, k=7)["q"])
    assert [name for name in ranked if name != "d3"] == [name for name in documents if name != "d3"]
    for relevant in documents:
        dev_set = make_dev_set(documents, [Query("q", queries[0])], {"q": {relevant: 1}})
        assert dev_set.documents == list(documents.values())
        found = Validator({"toy": dev_set}, "RR@7", *sides, encode_dtype="float32")()["toy"]
        assert found == pytest.approx(1 / (1 + ranked.index(relevant)))
    numbered = {f"d{place}": f"text {place}" for place in range(30)}
    drawn = make_dev_set(numbered, [Query("q", "cat")], {"q": {"d20": 1}}, max_documents=9)
    assert len(drawn.documents) == 9
    assert drawn.documents == [text for text in numbered.values() if text in drawn.documents]
