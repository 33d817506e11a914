from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence

import pytest

from hyperseek._relevance import MEASURES
from hyperseek.errors import HyperseekError, InputError, UnknownNameError
from hyperseek.evaluation import aggregate, calculate, measure_names, register_measure
from hyperseek.evaluation._measures import check_depth, depth


def test_equals_every_recorded_value(metrics_golden, retrieval_golden):
    values = calculate(retrieval_golden["run"], metrics_golden["qrels"], "hypencoder")
    assert set(values) == set(metrics_golden["aggregated"])
    for name, expected in metrics_golden["aggregated"].items():
        assert aggregate(values)[name] == pytest.approx(expected, abs=1e-9)
    for query, by_measure in metrics_golden["per_query"].items():
        for name, expected in by_measure.items():
            assert values[name][query] == pytest.approx(expected, abs=1e-9), (query, name)
    assert list(values["RR"]) == list(metrics_golden["qrels"])


def test_a_query_without_a_run_counts_as_nothing(small_run, small_qrels):
    values = calculate(small_run, small_qrels, ["RR", "nDCG@10", "R@5", "Judged@10"])
    assert [by_query["q3"] for by_query in values.values()] == [0, 0, 0, 0]
    assert aggregate(values)["RR"] == pytest.approx((0.5 + 1 + 0) / 3)


def test_ndcg_and_rel_variants_against_their_definitions():
    rng = random.Random(3)
    documents = [f"d{place}" for place in range(40)]
    qrels = {f"q{query}": {name: rng.randrange(4) for name in rng.sample(documents, 12)} for query in range(8)}
    run = {query: {name: rng.random() for name in rng.sample(documents, 25)} for query in qrels}
    values = calculate(run, qrels, "nDCG@10 RR(rel=2)@10 P@5 R(rel=2)@20")
    for query, grades in qrels.items():
        ranked = sorted(run[query], key=run[query].__getitem__, reverse=True)
        gains = [grades.get(name, 0) for name in ranked]
        ideal = sorted(grades.values(), reverse=True)
        dcg, best = (sum(g / math.log2(r + 2) for r, g in enumerate(some[:10])) for some in (gains, ideal))
        assert values["nDCG@10"][query] == pytest.approx(dcg / best)
        first = next((rank for rank, gain in enumerate(gains[:10], 1) if gain >= 2), None)
        assert values["RR(rel=2)@10"][query] == pytest.approx(1 / first if first else 0)
        assert values["P@5"][query] == pytest.approx(sum(gain >= 1 for gain in gains[:5]) / 5)
        relevant = sum(grade >= 2 for grade in grades.values())
        assert values["R(rel=2)@20"][query] == pytest.approx(sum(g >= 2 for g in gains[:20]) / relevant)


def test_ndcg_with_exponential_gain_takes_any_grade():
    name = "nDCG(dcg='exp-log2')@10"
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    found = (2**1 - 1) / math.log2(2) + (2**3 - 1) / math.log2(4)
    best = (2**3 - 1) / math.log2(2) + (2**1 - 1) / math.log2(3)
    assert calculate(run, {"q": {"a": 1, "b": 0, "c": 3, "x": -2}}, [name])[name]["q"] == pytest.approx(found / best)
    large = calculate(run, {"q": {"a": 7, "b": 1000, "c": 2000, "x": 3000}}, [name, "nDCG@10"])
    assert large[name]["q"] == 0
    assert 0 < large["nDCG@10"]["q"] < 1
    assert calculate(run, {"q": {"a": 0, "b": 0}}, [name])[name]["q"] == 0


def test_names_are_canonical_sets_expand_and_repetitions_go():
    assert measure_names("MRR MRR@10 RR nDCG@10") == ("RR", "RR@10", "nDCG@10")
    assert measure_names(["hypencoder", "AP"])[-2:] == ("RR@10", "AP")
    assert "RR(rel=2)" in measure_names("trec-dl")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("ndcg@10", "did you mean 'nDCG'|did you mean 'NDCG'"), ("mrr", "did you mean 'MRR'"), ("trec_dl", "trec-dl")],
)
def test_an_unknown_name_suggests_a_known_one(name, hint):
    with pytest.raises(UnknownNameError, match=hint):
        measure_names(name)


@pytest.mark.parametrize(
    "name", ["nDCG@ten", "nDCG(foo=2)@10", "P@0", "P", "nDCG@10.5", "R(rel='a')@10", "AP@-3", "RR("]
)
def test_a_malformed_name_says_what_is_allowed(name):
    with pytest.raises(InputError, match=r"cut-off|takes"):
        measure_names(name)


def test_a_measure_that_nothing_here_computes():
    with pytest.raises(InputError, match="not installed"):
        measure_names("alpha_nDCG@10")


def test_no_measure_at_all():
    with pytest.raises(InputError, match="no measure"):
        measure_names("  ")


def test_depth_is_the_largest_cutoff_and_a_shallow_run_is_refused():
    assert depth("nDCG@10 R@100") == 100
    assert depth("nDCG@10 AP") == 1000
    assert depth("R@2000 AP") == 2000
    check_depth("nDCG@10 AP", 10)
    with pytest.raises(InputError, match=r"R@100 reads 100 .* k=50"):
        check_depth("R@100", 50)


def test_counts_are_summed(small_run, small_qrels):
    assert aggregate(calculate(small_run, small_qrels, "NumRet"))["NumRet"] == 5


def test_unusable_runs(small_run, small_qrels):
    with pytest.raises(InputError, match="no judgements"):
        calculate(small_run, {}, "AP")
    with pytest.raises(InputError, match=r"none of the run's 1 queries is judged.*\['x'\]"):
        calculate({"x": {"d1": 1.0}}, small_qrels, "AP")
    with pytest.raises(InputError, match="'d1' is not a number"):
        calculate({"q1": {"d1": math.nan}}, small_qrels, "AP")
    with pytest.raises(InputError, match="over no queries"):
        aggregate({"AP": {}})


def test_a_registered_measure_is_computed_beside_the_others() -> None:
    @register_measure("Found")
    def found(top: Sequence[int], judged: Sequence[int], depth: int) -> float:
        return float(max(top, default=0) == max(judged)) if depth < 13 else 1 / 0 if depth == 13 else math.inf

    try:
        qrels = {"q1": {"a": 2, "b": 1}, "q2": {"a": 1}, "q3": {"a": 0}, "q4": {"a": 1}}
        run = {"q1": {"b": 3.0, "c": 2.0, "a": 1.0}, "q2": {"a": 1.0}, "q3": {"a": 1.0}}
        values = calculate(run, qrels, "Found@2 R@2 Found@3")
        assert list(values) == ["Found@2", "R@2", "Found@3"]
        assert values["Found@2"] == {"q1": 0.0, "q2": 1.0, "q3": 0.0, "q4": 0.0}
        assert values["Found@3"] == {"q1": 1.0, "q2": 1.0, "q3": 0.0, "q4": 0.0}
        assert aggregate(values)["Found@3"] == 0.5
        assert depth("Found@7") == 7
        for name, message in (
            ("Found", "write it as Found@CUTOFF"),
            ("Found(rel=2)@3", "as in Found@10"),
            ("Found@²", "as in Found@10"),
        ):
            with pytest.raises(HyperseekError, match=message):
                measure_names(name)
        with pytest.raises(HyperseekError, match="the measure Found@13 failed: division by zero"):
            calculate(run, qrels, "Found@13")
        with pytest.raises(HyperseekError, match="the measure Found@14 must return a finite number, not inf"):
            calculate(run, qrels, "Found@14")
        with pytest.raises(HyperseekError, match=r"unknown measure 'Foudn'; did you mean 'Found'\?"):
            measure_names("Foudn@3")
    finally:
        MEASURES.unregister("Found")
    for name in ("nDCG", "Bpref"):
        with pytest.raises(HyperseekError, match=f"the name '{name}' is taken"):
            register_measure(name)(found)


def test_hydras_measures_equal_its_recorded_values(golden):
    recorded = json.loads((golden / "hydra/golden.json").read_text())["metrics"]
    run = {
        query: {name: -float(rank) for rank, name in enumerate(ranking)}
        for query, ranking in zip(recorded["qrels"], recorded["rankings"], strict=True)
    }
    found = aggregate(calculate(run, recorded["qrels"], ["hydra", "nDCG(dcg='exp-log2')@2"]))
    wanted = [recorded[name] for name in ("ndcg10", "mrr10", "recall100", "ndcg2")]
    assert list(found.values()) == pytest.approx(wanted, abs=1e-9)
