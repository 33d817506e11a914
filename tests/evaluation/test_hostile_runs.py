"""Runs and judgements that break the providers behind ir-measures: ties, strange ids, and grades of every size."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from hyperseek.errors import InputError
from hyperseek.evaluation import calculate
from hyperseek.types import Qrels, Run

NAMES = "nDCG@10 nDCG RR RR@10 RR(rel=2)@5 AP AP(rel=2) R@5 P@5 Success@2 Judged@5 Bpref NumRet"
GRADES = [0, 0, 1, 2, 3, -1, -2, -3, -100, -(2**63), 999, 1001, 2**31, 2**63, 10**30]
SCORES = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, 1e308, 5e-324, 1 + 2.0**-50]
IDS = ["d0", "a blank", "a\x00null", "é", "e\u0301", "\ud800", "tab\t", "", "line\nend", "-1", "Q0", "文"]


def expected(ranked: list[str], judged: dict[str, int]) -> dict[str, float]:
    """The measures by their definitions, of an order that is given."""
    grades = [judged.get(name, 0) for name in ranked]
    relevant = sum(grade >= 1 for grade in judged.values())
    precise = sum(grade >= 2 for grade in judged.values())

    def gain(values: list[int], depth: int) -> float:
        return math.fsum(max(grade, 0) / math.log2(rank + 2) for rank, grade in enumerate(values[:depth]))

    def ndcg(depth: int) -> float:
        return gain(grades, depth) / gain(sorted(judged.values(), reverse=True), depth) if relevant else 0.0

    def first(level: int, depth: int) -> float:
        return next((1 / rank for rank, grade in enumerate(grades[:depth], 1) if grade >= level), 0.0)

    def average(level: int, total: int) -> float:
        hits = [rank for rank, grade in enumerate(grades, 1) if grade >= level]
        return sum(number / rank for number, rank in enumerate(hits, 1)) / total if total else 0.0

    wrong = sum(grade == 0 for grade in judged.values())
    bpref, above = 0.0, 0
    for name in ranked:
        if judged.get(name, -1) == 0:
            above += 1
        elif judged.get(name, -1) >= 1:
            bpref += 1 - min(above, relevant) / min(relevant, wrong) if above else 1
    return {
        "nDCG@10": ndcg(10),
        "nDCG": ndcg(10**6),
        "RR": first(1, 10**6),
        "RR@10": first(1, 10),
        "RR(rel=2)@5": first(2, 5),
        "AP": average(1, relevant),
        "AP(rel=2)": average(2, precise),
        "R@5": sum(grade >= 1 for grade in grades[:5]) / relevant if relevant else 0.0,
        "P@5": sum(grade >= 1 for grade in grades[:5]) / 5,
        "Success@2": float(any(grade >= 1 for grade in grades[:2])),
        "Judged@5": sum(name in judged for name in ranked[:5]) / min(5, len(ranked)) if ranked else 0.0,
        "Bpref": bpref / relevant if relevant else 0.0,
        "NumRet": float(len(ranked)),
    }


def draw_case(draw: random.Random) -> tuple[Run, Qrels]:
    names = [*IDS, *(f"x{place}" for place in range(20))]
    queries = draw.sample(names, draw.randint(1, 6))
    qrels = {
        query: {name: draw.choice(GRADES) for name in draw.sample(names, draw.choice([0, 1, 1, 3, 10]))}
        for query in queries
    }
    answered = {queries[0], *draw.sample(names, 4)}
    run = {
        query: {name: draw.choice(SCORES) for name in draw.sample(names, draw.choice([0, 1, 5, 25]))}
        for query in draw.sample(sorted(answered), len(answered))
    }
    return run, qrels


def check_case(run: Run, qrels: Qrels) -> None:
    values = calculate(run, qrels, NAMES)
    for query, judged in qrels.items():
        ranking = run.get(query, {})
        places = {name: place for place, name in enumerate(ranking)}
        wanted = expected(sorted(ranking, key=lambda name: (-ranking[name], places[name])), judged)
        assert {name: values[name][query] for name in values} == pytest.approx(wanted, abs=1e-9), (ranking, judged)
    assert all(list(by_query) == list(qrels) for by_query in values.values())


@pytest.mark.parametrize("cases", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_values_are_those_of_the_definitions(cases: int) -> None:
    draw = random.Random(0)
    for _ in range(cases):
        check_case(*draw_case(draw))


def test_thousands_of_ties() -> None:
    ids = [f"d{place}" for place in range(5000)]
    random.Random(1).shuffle(ids)
    check_case({"q": dict.fromkeys(ids, 1.0)}, {"q": dict.fromkeys(ids[2:5], 1)})


def test_all_measures_of_a_table_see_one_order() -> None:
    run = {"q": {"a1": 1.0, "b2": 1.0, "c3": 1.0, "z": 0.0}}
    values = calculate(run, {"q": {"a1": 1}}, "nDCG@10 RR@10 RR AP R@1 P@1 Success@1 nDCG(dcg='exp-log2')@10 Compat")
    assert {name: by_query["q"] for name, by_query in values.items()} == pytest.approx(
        dict.fromkeys(values, 1.0), abs=1e-5
    )
    last = calculate(run, {"q": {"c3": 1}}, "nDCG@10 RR@10 RR AP")
    assert [by_query["q"] for by_query in last.values()] == pytest.approx([0.5, 1 / 3, 1 / 3, 1 / 3])


def test_scores_that_float32_cannot_tell_apart_keep_their_order() -> None:
    run = {"q": {"a": 1.0, "b": 1.0 + 2.0**-40}}
    assert calculate(run, {"q": {"b": 1}}, "RR nDCG@1")["RR"]["q"] == 1


@pytest.mark.parametrize(
    ("odd", "value"), [({"d0": -2}, 0), ({"d0": -(2**40), "d1": -5}, 0), ({"d0": 2**31}, 0.5), ({"d0": 2**63}, 0.5)]
)
def test_judgements_that_ended_the_process(odd: dict[str, int], value: float) -> None:
    """What failed was no exception: where it fails again, no test after it runs."""
    qrels = {f"q{place}": odd if place % 2 else {"d0": 1, "d1": 0} for place in range(5)}
    run = {query: {"d1": 2.0, "d0": 1.0} for query in qrels}
    values = calculate(run, qrels, f"{NAMES} infAP Rprec P(judged_only=True)@5 IPrec@0.1 SetF Compat")
    assert list(values["RR"].values()) == [0.5, value, 0.5, value, 0.5]


def test_negative_grades_are_those_of_trec_eval() -> None:
    """In the pool and not judged for Bpref and infAP; not relevant for all; judged for Judged."""
    run = {"q": {"b": 3.0, "a": 2.0, "c": 1.0}}
    for grade in (-1, -2, -(2**40)):
        values = calculate(run, {"q": {"a": 1, "b": grade, "c": 1}}, "Bpref infAP RR Judged@3")
        found = [by_query["q"] for by_query in values.values()]
        assert found == pytest.approx([1, 0.875, 0.5, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("run", "qrels", "message"),
    [
        ({"q": {"a": math.nan}}, {"q": {"a": 1}}, "'a' is not a number"),
        ({"q": {"a": None}}, {"q": {"a": 1}}, "'a' is not a number"),
        ({"q": {"a": "high"}}, {"q": {"a": 1}}, "'a' is not a number"),
        ({"q": {"a": 10**400}}, {"q": {"a": 1}}, "'a' is not a number"),
        ({"q": {"a": 1.0}}, {"q": {"a": 0.5}}, "'a' must be whole, not 0.5"),
        ({"q": {"a": 1.0}}, {"q": {"a": math.nan}}, "'a' must be whole, not nan"),
        ({"q": {"a": 1.0}}, {"q": {"a": "1"}}, "'a' must be whole"),
        ({"q": {"a": 1.0}}, {"q": {"a": None}}, "'a' must be whole"),
        ({}, {"q": {"a": 1}}, "none of the run's 0 queries"),
    ],
)
def test_what_is_no_score_and_no_grade(run: Any, qrels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        calculate(run, qrels, "nDCG@10 AP")


def test_measures_that_take_few_levels_say_so() -> None:
    run = {"q": {"a": 1.0}}
    with pytest.raises(InputError, match=r"ERR@10 takes grades up to 4, but the judgements have 7"):
        calculate(run, {"q": {"a": 7}}, "ERR@10")
    with pytest.raises(InputError, match="rel must be a grade from 1"):
        calculate(run, {"q": {"a": 1}}, "RR(rel=0)")
