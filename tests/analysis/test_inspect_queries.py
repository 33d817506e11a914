"""Two systems, query by query: wins and losses, bounds of fusion, holes in judgements, and scores."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest

from hyperseek import Index
from hyperseek.analysis import inspect_queries
from hyperseek.analysis._rankings import auroc, find_holes, fusion_bounds, kendall, report_scores
from hyperseek.data import Dataset, open_dataset
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.evaluation import Protocol, Ranking, calculate, rank_bm25, rank_index
from hyperseek.mining import BM25Settings
from hyperseek.models import ModelConfig, build
from hyperseek.types import Document, Query

SCRIPT = "<script>window.hacked = 1</script>"
DOCUMENTS = [Document(f"d{number}", f"word{number} text", f"title {number}") for number in range(12)]


def dataset(qrels, texts=None) -> Dataset:
    queries = [Query(name, (texts or {}).get(name, f"word{place}")) for place, name in enumerate(qrels)]
    return Dataset.from_records("toys", DOCUMENTS, queries=queries, qrels={"test": qrels})


def ranking(name: str, orders: dict[str, str]) -> Ranking:
    run = {query: {f"d{one}": 20.0 - rank for rank, one in enumerate(order.split())} for query, order in orders.items()}
    return Ranking(name, run, Protocol(qrels="x"))


QRELS = {"q1": {"d1": 1, "d2": 0}, "q2": {"d2": 2, "d3": 1}, "q3": {"d4": 1}}
FIRST = ranking("first", {"q1": "1 2 3", "q2": "5 2 6", "q3": "7 8"})
SECOND = ranking("second", {"q1": "2 1 9", "q2": "2 3", "q3": "7 8"})


def test_wins_and_losses_with_ranks_and_documents(tmp_path):
    report = inspect_queries(
        [FIRST, SECOND], dataset(QRELS, {"q2": f"find {SCRIPT}"}), measure="RR@10", output=tmp_path
    )
    found = report.systems[0]
    assert [(one.id, one.gain) for one in found.outcomes] == [("q2", 0.5), ("q3", 0.0), ("q1", -0.5)]
    assert found.counts() == (1, 1, 1)
    win = found.outcomes[0]
    assert win.ranks == {"first": 2, "second": 1}
    assert [(one.id, one.grade) for one in win.tops["first"]] == [("d5", None), ("d2", 2), ("d6", None)]
    assert found.outcomes[1].ranks == {"first": None, "second": None}
    assert found.outcomes[1].tops == {}
    assert win.features["relevant"] == 2
    page = (tmp_path / "queries.html").read_text()
    assert "title 5" in page
    assert "<script" not in page  # the query's own text is no markup
    assert "Content-Security-Policy" in page
    assert not re.search(r'(?:src|href)="', page)
    written = json.loads((tmp_path / "queries.json").read_text())
    assert written["systems"][0]["outcomes"][0]["values"] == {"first": 0.5, "second": 1.0}
    assert report.to_pandas()["gain"].tolist() == [0.5, 0.0, -0.5]


def test_bounds_of_fusion_are_bounds():
    bounds = next(fusion_bounds({"first": FIRST.run, "second": SECOND.run}, QRELS, "RR@10", 3))
    assert bounds.values["better of both"] == pytest.approx((1 + 1 + 0) / 3)
    assert bounds.values["best order of both"] == pytest.approx((1 + 1 + 0) / 3)
    assert bounds.recall == pytest.approx({"first": (1 + 0.5 + 0) / 3, "second": (1 + 1 + 0) / 3, "either": 2 / 3})
    assert bounds.overlap == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    draw = random.Random(1)
    for _ in range(30):
        qrels = {"q": {f"d{one}": draw.randint(0, 2) for one in range(6)} | {"d0": 1}}
        runs = {name: {"q": {f"d{one}": draw.random() for one in draw.sample(range(9), 5)}} for name in "ab"}
        values = next(fusion_bounds(runs, qrels, "nDCG@10", 10)).values
        united = sorted({name for run in runs.values() for name in run["q"]})[:6]
        best = max(
            calculate({"q": {name: -rank for rank, name in enumerate(order)}}, qrels, "nDCG@10")["nDCG@10"]["q"]
            for order in itertools.islice(itertools.permutations(united), 100)
        )
        top = values["best order of both"]
        assert (
            top
            >= max(values["a"], values["b"], values["better of both"], values["reciprocal rank fusion"], best) - 1e-12
        )


def test_kendall_and_auroc_equal_their_definitions():
    draw = random.Random(0)
    for _ in range(20):
        first, second = (draw.sample("abcdefgh", 6) for _ in range(2))
        common = [name for name in first if name in second]
        pairs = list(itertools.combinations(common, 2))
        signs = [1 if second.index(a) < second.index(b) else -1 for a, b in pairs]
        assert kendall(first, second) == pytest.approx(sum(signs) / len(signs))
        scores, marks = (
            np.array([draw.randint(0, 4) for _ in range(12)], float),
            np.array([draw.random() < 0.5 for _ in range(12)]),
        )
        wins = [(a > b) + (a == b) / 2 for a in scores[marks] for b in scores[~marks]]
        assert auroc(scores, marks) == (pytest.approx(sum(wins) / len(wins)) if wins else None)
    assert kendall("a", "a") is None


def test_a_system_with_unjudged_documents_is_named():
    qrels = {"q": {"d1": 1, "d2": 0}}
    pooled, other = ranking("pooled", {"q": "2 1"}), ranking("other", {"q": "9 8 1"})
    first, second = find_holes({"pooled": pooled.run, "other": other.run}, qrels, "RR@10", 10)
    assert (first.judged, first.own, first.value, first.condensed) == (1.0, 0, 0.5, 0.5)
    assert (second.judged, second.own, second.condensed) == (pytest.approx(1 / 3), 2, 1.0)
    report = inspect_queries([pooled, other], dataset(qrels), measure="RR@10")
    assert "fewer documents of other were judged than of others" in report._repr_html_()


def test_scores_within_and_across_queries():
    qrels = {"q1": {"d1": 1, "d2": 0, "d3": 0}, "q2": {"d1": 1, "d2": 0, "d3": 0}}
    run = {"q1": {"d1": 0.9, "d2": 0.8, "d3": 0.7, "d9": 5.0}, "q2": {"d1": 0.3, "d2": 0.2, "d3": 0.1}}
    report = report_scores("mine", run, qrels)
    assert report is not None
    assert report.judged_only
    assert (report.documents, report.within) == (6, 1.0)
    assert report.across == pytest.approx(6 / 8)  # 0.3 is relevant and below 0.8 and 0.7
    assert [one.relevant for one in report.bins] == [0, 0, 1, 0, 0, 1]
    only = report_scores("mine", run, {"q1": {"d1": 1}})
    assert only is not None
    assert not only.judged_only  # unjudged documents count as others where none was judged irrelevant
    assert only.documents == 4
    assert report_scores("mine", {"q1": {"d1": 1.0}}, {"q1": {"d1": 1}}) is None


@pytest.mark.parametrize(("given", "error", "message"), [
    ({"rankings": []}, InputError, "distinct names"),
    ({"rankings": [FIRST, FIRST]}, InputError, "distinct names"),
    ({"measure": "nDCG@10 RR@10"}, InputError, "by one measure"),
    ({"baseline": "frist"}, UnknownNameError, "did you mean 'first'"),
    ({"split": "tset"}, UnknownNameError, "test"),
])  # fmt: skip
def test_mistakes(given, error, message):
    with pytest.raises(error, match=message):
        inspect_queries(**{"rankings": [FIRST, SECOND], "dataset": dataset(QRELS), **given})


def test_real_rankings_differ_where_words_do(collections: Path, tmp_path: Path):
    cranfield = open_dataset(collections / "cranfield")
    plain = rank_bm25(cranfield, k=100, name="words", settings=BM25Settings(stemmer=None, stop_words=None))
    report = inspect_queries([plain, rank_bm25(cranfield, k=100)], cranfield, show=3, output=tmp_path)
    assert sum(report.systems[0].counts()) == 225
    assert report.bounds[0].values["best order of both"] > report.bounds[0].values["better of both"]
    assert len(report.systems[0].gains) == 4
    assert (tmp_path / "queries.html").stat().st_size > 10_000


def test_matches_of_tokens_are_shown_where_a_model_has_them(tiny_encoder, tmp_path):
    config = ModelConfig(trunk=tiny_encoder, family="late", late={"dimension": 8}, document_length=40)
    documents = [Document("d1", "the cat sat"), Document("d2", "a dog by the sea"), Document("d3", "the moon")]
    toys = Dataset.from_records(
        "toys", documents, queries=[Query("q1", "cat"), Query("q2", "dog sea")],
        qrels={"test": {"q1": {"d1": 1}, "q2": {"d2": 1}}},
    )  # fmt: skip
    index = Index.build(tmp_path / "late", documents, build(config))
    nothing = Ranking("nothing", {"q1": {"d3": 1.0}, "q2": {"d3": 1.0}}, Protocol(qrels="x"))
    late = rank_index(index, toys, name="late")
    report = inspect_queries([nothing, late], toys, measure="RR@10", indexes={"late": index}, output=tmp_path / "out")
    shown = report.systems[0].outcomes[0].tops["late"][0].matches
    assert len(shown) == 4  # one for each token that the model reads of the query
    assert shown == sorted(shown, key=lambda match: -match[2])
    assert f"{shown[0][0]} ~ {shown[0][1]}" in (tmp_path / "out/queries.html").read_text()
    assert report.systems[0].outcomes[0].tops["nothing"][0].matches == []
