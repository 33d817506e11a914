"""Measures, written out once more from their definitions, on random runs with ties and odd judgements."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import pytest

from hyperseek.evaluation import aggregate, calculate
from hyperseek.types import Qrels, Run

NAMES = (
    "nDCG@10 nDCG@3 nDCG nDCG(dcg='exp-log2')@10 AP AP@5 AP(rel=2) RR RR@3 RR(rel=2)@10 P@1 P@10 P(rel=2)@5 R@5 R@100 "
    "R(rel=2)@10 Success@3 Judged@5 Judged@10 Bpref Rprec SetP SetR NumRet"
)


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Insert each document behind all that score at least as much: equal ones stay in the order of the run."""
    order: list[str] = []
    for name, score in scores.items():
        place = next((at for at, other in enumerate(order) if scores[other] < score), len(order))
        order.insert(place, name)
    return order


def dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains))


def by_definition(name: str, order: Sequence[str], judged: Mapping[str, int]) -> float:
    base, _, cut = name.partition("@")
    depth = int(cut) if cut else len(order)
    base, _, parameter = base.partition("(")
    level = int(parameter[4:-1]) if parameter.startswith("rel=") else 1
    relevant = {document for document, grade in judged.items() if grade >= level}
    top = order[:depth]
    hits = [document in relevant for document in top]
    if base == "nDCG":
        gain = (lambda grade: 2.0**grade - 1) if parameter.startswith("dcg") else float
        found = [gain(max(0, judged.get(document, 0))) for document in top]
        ideal = sorted((gain(max(0, grade)) for grade in judged.values()), reverse=True)
        best = dcg(ideal[:depth] if cut else ideal)
        return dcg(found) / best if best else 0.0
    if base == "AP":
        precisions = [sum(hits[:rank]) / rank for rank, hit in enumerate(hits, 1) if hit]
        return sum(precisions) / len(relevant) if relevant else 0.0
    if base == "RR":
        return next((1 / rank for rank, hit in enumerate(hits, 1) if hit), 0.0)
    if base == "P":
        return sum(hits) / depth
    if base in ("R", "SetR"):
        return sum(hits) / len(relevant) if relevant else 0.0
    if base == "SetP":
        return sum(hits) / len(order) if order else 0.0
    if base == "Success":
        return float(any(hits))
    if base == "Judged":
        return sum(document in judged for document in top) / len(top) if top else 0.0
    if base == "Rprec":
        return sum(document in relevant for document in order[: len(relevant)]) / len(relevant) if relevant else 0.0
    if base == "NumRet":
        return float(len(order))
    assert base == "Bpref"  # Buckley and Voorhees 2004, as trec_eval computes it
    irrelevant = [document for document in judged if judged[document] == 0]
    above, value = 0, 0.0
    for document in order:
        if document in relevant:
            bound = min(len(relevant), len(irrelevant))
            value += 1 - min(above, len(relevant)) / bound if above else 1
        above += judged.get(document) == 0
    return value / len(relevant) if relevant else 0.0


def drawn(seed: int) -> tuple[Run, Qrels]:
    """Few distinct scores, so that many tie; grades from -2 to 4; documents in only one of run and judgements."""
    draw = random.Random(seed)
    run: Run = {}
    qrels: Qrels = {}
    for query in (f"q{number}" for number in range(20)):
        names = [f"{draw.choice('aZ é9')}{number}" for number in range(draw.choice([1, 3, 20, 130]))]
        scores = [draw.choice([0.0, -1.5, 1e-9, 3.0, draw.random()]) for _ in names]
        kept = draw.sample(names, draw.randint(1, len(names)))
        if query == "q0" or draw.random() < 0.9:  # sometimes a judged query has no ranking
            run[query] = {name: scores[names.index(name)] for name in kept}
        judged = draw.sample([*names, "elsewhere", "nowhere"], draw.randint(1, min(15, len(names) + 2)))
        qrels[query] = {name: draw.choice([-2, -1, 0, 0, 1, 1, 2, 3, 4]) for name in judged}
    run["unjudged"] = {"x": 1.0}
    return run, qrels


def test_a_thousand_random_runs_agree_with_the_definitions() -> None:
    for seed in range(60):  # of 20 queries each, of which some have no ranking
        run, qrels = drawn(seed)
        values = calculate(run, qrels, NAMES)
        assert len(values) == len(NAMES.split())
        for name, by_query in values.items():
            for query, judged in qrels.items():
                order = ranked(run.get(query, {}))
                wanted = by_definition(name, order, judged) if order else 0.0
                assert by_query[query] == pytest.approx(wanted, abs=1e-9), (seed, name, query)
            if not name.startswith("Num"):
                assert aggregate(values)[name] == pytest.approx(sum(by_query.values()) / len(by_query))
