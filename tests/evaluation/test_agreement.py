"""Search, plans, `evaluate`, validation and p-MRR agree on random collections, whatever these hold."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from hyperseek import Document, Index, Query
from hyperseek.data import Dataset
from hyperseek.evaluation import evaluate, p_mrr_per_query
from hyperseek.plan import Exhaustive, Fusion, Plan, Rescore, Union
from hyperseek.scoring import LinearScorer, Points, Scorer, Space, VectorPoints
from hyperseek.training._cache import SideFeatures
from hyperseek.training._validation import Validator, make_dev_set
from hyperseek.types import Qrels

WORDS = "cat dog moon"
PLANS = (
    Plan(stages=[Exhaustive()]),
    Plan(stages=[Union(sources=[Exhaustive(), Exhaustive(n=2)]), Rescore()]),
    Plan(stages=[Fusion(sources=[Exhaustive(), Exhaustive()])]),
    Plan(stages=[Fusion(sources=[Exhaustive(n=3), Exhaustive()], method="minmax"), Rescore()]),
)
METRICS = ("nDCG@1", "nDCG@3", "nDCG@10", "RR@2", "RR@10", "R@1", "R@5", "R@10")


class CountingRetriever:
    """Scores shared words, so that whole numbers tie, whatever the order and the case of the words."""

    def __init__(self) -> None:
        self.source = "counting"
        self.fingerprint = "f" * 32
        self.space = Space("dot", 3)
        self.device = torch.device("cpu")
        self.model = torch.nn.Identity()

    def protocol(self) -> dict[str, Any]:
        return {"prompts": {}, "versions": {}}

    def route(self, side: str) -> list[torch.nn.Module]:
        return [self.model]

    def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto") -> Points:
        return VectorPoints(_counts(texts))

    def compile(self, queries: Sequence[str], options: Any = None) -> Scorer:
        return LinearScorer(self.space, _counts(queries))

    def compile_batches(self, queries: Sequence[str], options: Any = None) -> Iterator[Scorer]:
        for start in range(0, len(queries), 3):
            yield self.compile(queries[start : start + 3])


def _counts(texts: Sequence[str]) -> torch.Tensor:
    return torch.tensor([[float(text.lower().split().count(word)) for word in WORDS.split()] for text in texts])


def random_text(draw: random.Random) -> str:
    words = draw.choices(WORDS.split(), k=draw.randint(1, 3))
    return " ".join(draw.choice([word, word.upper()]) for word in words)


def random_corpus(draw: random.Random) -> list[Document]:
    names = draw.sample([f"{letter}{number}" for letter in "aZé" for number in range(8)], draw.randint(1, 14))
    return [Document(name, random_text(draw), title=draw.choice(["", "moon"])) for name in names]


def random_queries(draw: random.Random, documents: Sequence[Document]) -> tuple[list[Query], Qrels]:
    """Some queries are documents; grades may be negative, all 0, or of a few documents alone."""
    queries = [Query(f"q{number}", random_text(draw)) for number in range(draw.randint(1, 5))]
    queries += [Query(one.id, one.text) for one in draw.sample(documents, min(len(documents), draw.randint(0, 3)))]
    qrels: Qrels = {}
    for query in draw.sample(queries, len(queries)):
        judged = draw.sample(documents, draw.randint(1, min(6, len(documents))))
        if draw.random() < 0.85:
            qrels[query.id] = {one.id: draw.choice([-2, -1, 0, 0, 1, 1, 2, 3]) for one in judged}
    if not any(grade > 0 for judged in qrels.values() for grade in judged.values()):
        qrels[queries[0].id] = {documents[0].id: 1}
    return queries, qrels


def measured(metric: str, ranked: Sequence[str], judged: dict[str, int]) -> float:
    """Measure one ranking by the definition."""
    name, depth = metric.split("@")
    gains = [max(0, judged.get(document, 0)) for document in ranked[: int(depth)]]
    best = sorted((max(0, grade) for grade in judged.values()), reverse=True)
    if not any(best):
        return 0.0
    if name == "RR":
        return max([1 / rank for rank, gain in enumerate(gains, 1) if gain], default=0.0)
    if name == "R":
        return sum(map(bool, gains)) / sum(map(bool, best))
    discounted = [
        sum(gain / math.log2(rank + 1) for rank, gain in enumerate(row, 1)) for row in (gains, best[: int(depth)])
    ]
    return discounted[0] / discounted[1]


def check_p_mrr(
    index: Index,
    draw: random.Random,
    queries: Sequence[Query],
    before: Qrels,
    documents: Sequence[Document],
    *,
    same: bool,
) -> None:
    """Compare p-MRR with its definition on two searches: nothing moves unless a score does."""
    after = {
        query: {name: draw.choice([grade, grade, -1, 0, 2]) for name, grade in judged.items() if draw.random() < 0.8}
        for query, judged in before.items()
    }
    other = [Query(query.id, random_text(draw)) for query in queries]
    old, new = (index.run(asked, k=len(documents), exclude_same_id=same) for asked in (queries, other))
    assert set(p_mrr_per_query(old, old, before, after).values()) <= {0.0}
    wanted = {}
    for query, judged in before.items():
        gains = {name: max(0, after[query].get(name, 0)) - max(0, grade) for name, grade in judged.items()}
        moves = []
        for name, gain in gains.items():
            first, second = (
                [*own[query], name].index(name) + 1
                for own in (old, new)  # just after the last where it is not found
            )
            fall = second / first - 1 if first >= second else 1 - first / second
            moves += [math.copysign(1, -gain) * fall] if gain else []
        if moves:
            wanted[query] = sum(moves) / len(moves)
    assert p_mrr_per_query(old, new, before, after) == pytest.approx(wanted, abs=1e-12)


def check(folder: Any, seed: int, *, collections: int) -> None:
    """Compare on one random corpus with several random sets of queries and judgements."""
    draw = random.Random(seed)
    documents, retriever = random_corpus(draw), CountingRetriever()
    texts = {document.id: document.full_text for document in documents}
    index = Index.build(folder, documents, retriever)
    for _ in range(collections):
        queries, qrels = random_queries(draw, documents)
        dataset = Dataset.from_records("toy", documents, queries=queries, qrels={"test": qrels})
        same = draw.random() < 0.5
        run = index.run(queries, k=10, exclude_same_id=same)
        scores = retriever.compile([query.text for query in queries]).score(
            retriever.encode_documents(list(texts.values()))
        )
        for query, row in zip(queries, scores.tolist(), strict=True):
            # Best first, ties in the order of the corpus, without the query itself where that is asked for.
            found = dict(zip(texts, row, strict=True))
            if same:
                found.pop(query.id, None)
            assert list(run[query.id]) == sorted(found, key=lambda name: -found[name])[:10]
        for plan in PLANS:
            ranked = index.run(queries, k=10, exclude_same_id=same, plan=plan)
            assert {name: list(own) for name, own in ranked.items()} == {n: list(own) for n, own in run.items()}, plan
        check_p_mrr(index, draw, queries, qrels, documents, same=same)
        wanted = {
            metric: sum(measured(metric, list(run[query]), qrels[query]) for query in qrels) / len(qrels)
            for metric in METRICS
        }
        result = evaluate(index, dataset, measures=METRICS, exclude_same_id=same)
        assert result.aggregate == pytest.approx(wanted, abs=1e-9), seed
        dev_set = make_dev_set(texts, dataset.queries(), qrels, exclude_same_id=same)
        sides = [SideFeatures(retriever, side) for side in ("query", "document")]
        validated = {metric: Validator({"toy": dev_set}, metric, *sides)()["toy"] for metric in METRICS}
        assert validated == pytest.approx(wanted, abs=1e-9), seed


def test_search_plans_evaluate_validation_and_p_mrr_agree(tmp_path):
    for seed in range(6):
        check(tmp_path / str(seed), seed, collections=10)


@pytest.mark.slow
def test_search_plans_evaluate_validation_and_p_mrr_agree_on_many_collections(tmp_path):
    for seed in range(100, 200):
        check(tmp_path / str(seed), seed, collections=5)


def test_validation_leaves_out_the_query_itself_as_evaluate_does(tmp_path):
    documents = [Document("a", "cat dog"), Document("b", "cat"), Document("c", "moon")]
    dataset = Dataset.from_records("toy", documents, queries=[Query("a", "cat dog")], qrels={"test": {"a": {"b": 1}}})
    retriever = CountingRetriever()
    index = Index.build(tmp_path, documents, retriever)
    sides = [SideFeatures(retriever, side) for side in ("query", "document")]
    for same, wanted in ((False, 1 / math.log2(3)), (True, 1.0)):
        dev_set = make_dev_set(
            {one.id: one.full_text for one in documents}, dataset.queries(), dataset.qrels("test"), exclude_same_id=same
        )
        assert Validator({"toy": dev_set}, "nDCG@10", *sides)()["toy"] == pytest.approx(wanted)
        result = evaluate(index, dataset, measures="nDCG@10", exclude_same_id=same)
        assert result.aggregate["nDCG@10"] == pytest.approx(wanted)


def test_validation_leaves_out_excluded_ids_as_evaluate_does(tmp_path):
    documents = [Document("a", "cat dog"), Document("b", "cat"), Document("c", "moon")]
    retriever = CountingRetriever()
    index = Index.build(tmp_path, documents, retriever)
    sides = [SideFeatures(retriever, side) for side in ("query", "document")]
    for metadata, wanted in (({}, 0.0), ({"excluded_ids": ["a", "elsewhere"]}, 1.0)):
        queries = [Query("q", "cat dog", metadata), Query("r", "moon")]
        dataset = Dataset.from_records(
            "toy", documents, queries=queries, qrels={"test": {"q": {"b": 1}, "r": {"c": 1}}}
        )
        dev_set = make_dev_set({one.id: one.full_text for one in documents}, dataset.queries(), dataset.qrels("test"))
        assert Validator({"toy": dev_set}, "R@1", *sides)()["toy"] == pytest.approx((wanted + 1) / 2)
        result = evaluate(index, dataset, measures="R@1")
        assert result.aggregate["R@1"] == pytest.approx((wanted + 1) / 2)


def test_a_model_that_went_astray_counts_as_nothing(caplog):
    class Astray(CountingRetriever):
        def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto") -> Points:
            return VectorPoints(_counts(texts) * math.nan)

    retriever = Astray()
    queries = [Query("q", "cat"), Query("r", "dog")]
    dev_set = make_dev_set({"a": "cat", "b": "dog"}, queries, {"q": {"a": 1}, "r": {"b": 0}})
    assert dev_set.share == 0.5
    sides = [SideFeatures(retriever, side) for side in ("query", "document")]
    assert Validator({"toy": dev_set}, "nDCG@10", *sides)() == {"toy": 0.0, "mean": 0.0}
    assert "validation on toy counts as 0" in caplog.text
