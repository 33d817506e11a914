"""What several rankings of the same queries have in common, where judgements have holes, and what scores say.

* **Bounds of fusion**: the better system of each query, chosen by its judgements, and all documents of the systems in
  the best order. No fusion of these rankings can be better than the second.
* **Holes**: a system that finds documents nobody judged is measured too low. Beside its value stands that of its
  ranking without unjudged documents, a condensed list (Sakai, SIGIR 2007), which is too high rather than too low.
* **Calibration**: whether scores tell relevant documents from others within a query, and across queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperseek._order import best_first
from hyperseek._relevance import is_relevant
from hyperseek.evaluation import aggregate, calculate
from hyperseek.types import Qrels, Run

Floats = NDArray[np.float64]
_RRF = 60
_BINS = 10


@dataclass(frozen=True, slots=True)
class FusionBounds:
    """How much two rankings could gain from each other.

    Attributes:
        system: The other's name.
        values: The measure of the baseline, the system, both fused by reciprocal rank, the better of both for each
            query, and all documents of both in the best order.
        recall: Share of the relevant documents among the top `k` of the baseline, the system, and either.
        overlap: Mean share of the top `k` that both have.
        correlation: Mean Kendall's tau of the documents that both have in the top `k`; None where no query has two.
        k: Top ranks that count.
    """

    system: str
    values: dict[str, float]
    recall: dict[str, float]
    overlap: float
    correlation: float | None
    k: int


@dataclass(frozen=True, slots=True)
class Holes:
    """How much of a system's top ranks was judged.

    Attributes:
        system: Its name.
        judged: Mean share of the top `k` that was judged.
        own: Unjudged documents in the top `k` that no other system has there, all queries together.
        value: The measure.
        condensed: The measure of the ranking without unjudged documents.
    """

    system: str
    judged: float
    own: int
    value: float
    condensed: float


@dataclass(frozen=True, slots=True)
class ScoreBin:
    """Documents whose scores are alike.

    Attributes:
        low: Least score.
        high: Greatest score.
        count: Documents.
        relevant: Share of them that is relevant.
    """

    low: float
    high: float
    count: int
    relevant: float


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """What a system's scores say about relevance.

    Attributes:
        system: Its name.
        documents: Scored documents that were looked at, over all queries.
        judged_only: Whether they are the judged ones; else unjudged ones count as not relevant, since fewer documents
            were judged not relevant than relevant.
        relevant: Mean score of the relevant ones.
        others: Mean score of the others.
        within: Mean over queries of the chance that a relevant document scores above another (AUROC); None if no query
            has both.
        across: The same over documents of all queries: lower than `within` where scores of different queries do not
            compare, so that no threshold fits all.
        bins: By score, from the lowest.
    """

    system: str
    documents: int
    judged_only: bool
    relevant: float
    others: float
    within: float | None
    across: float | None
    bins: list[ScoreBin]


def fusion_bounds(runs: Mapping[str, Run], qrels: Qrels, measure: str, k: int) -> Iterator[FusionBounds]:
    """Compare the first of the runs with each other one; all as `FusionBounds` says."""
    (baseline, first), *others = runs.items()
    for system, run in others:
        tops = {query: [best_first(one.get(query, {})) for one in (first, run)] for query in qrels}
        fused: Run = {}
        united: Run = {}
        for query, pair in tops.items():
            scores: dict[str, float] = {}
            for ranked in pair:
                for rank, name in enumerate(ranked, 1):
                    scores[name] = scores.get(name, 0.0) + 1 / (_RRF + rank)
            if scores:
                fused[query] = scores
                united[query] = {name: float(qrels[query].get(name, 0)) for name in scores}
        values = [calculate(one, qrels, measure) for one in (first, run, fused, united)]
        per_query = [own[measure] for own in values]
        means = [aggregate(own)[measure] for own in values]
        better = sum(map(max, zip(per_query[0].values(), per_query[1].values(), strict=True))) / len(qrels)
        cut = {query: [ranked[:k] for ranked in pair] for query, pair in tops.items()}
        yield FusionBounds(
            system=system,
            values={
                baseline: means[0],
                system: means[1],
                "reciprocal rank fusion": means[2],
                "better of both": better,
                "best order of both": means[3],
            },
            recall=_recalls(baseline, system, cut, qrels),
            overlap=float(np.mean([_overlap(*pair) for pair in cut.values()])),
            correlation=_mean([tau for pair in cut.values() if (tau := kendall(*pair)) is not None]),
            k=k,
        )


def _recalls(first: str, second: str, cut: Mapping[str, list[list[str]]], qrels: Qrels) -> dict[str, float]:
    shares = []
    for query, (a, b) in cut.items():
        relevant = {name for name, grade in qrels[query].items() if is_relevant(grade)}
        if relevant:
            shares.append([len(relevant.intersection(found)) / len(relevant) for found in (a, b, [*a, *b])])
    means = np.mean(shares, axis=0).tolist() if shares else [0.0, 0.0, 0.0]
    return dict(zip((first, second, "either"), means, strict=True))


def _overlap(first: Sequence[str], second: Sequence[str]) -> float:
    longest = max(len(first), len(second))
    return len(set(first).intersection(second)) / longest if longest else 1.0


def kendall(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return Kendall's tau of two rankings, over the documents of both; None for fewer than two of these."""
    ranks = {name: rank for rank, name in enumerate(second)}
    common = np.array([ranks[name] for name in first if name in ranks])
    count = len(common)
    if count < 2:
        return None
    agree = sum(int((common[place + 1 :] > common[place]).sum()) for place in range(count))
    return 4 * agree / (count * (count - 1)) - 1


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def find_holes(runs: Mapping[str, Run], qrels: Qrels, measure: str, k: int) -> Iterator[Holes]:
    """Yield how much of each run was judged; all as `Holes` says."""
    tops = {system: {query: best_first(run.get(query, {}))[:k] for query in qrels} for system, run in runs.items()}
    for system, run in runs.items():
        own = 0
        shares = []
        for query, judged in qrels.items():
            top = tops[system][query]
            others = {name for other, found in tops.items() if other != system for name in found[query]}
            own += sum(name not in judged and name not in others for name in top)
            shares.append(sum(name in judged for name in top) / len(top) if top else 0.0)
        condensed = {
            query: {name: score for name, score in scores.items() if name in qrels.get(query, {})}
            for query, scores in run.items()
        }
        value, without = (aggregate(calculate(one, qrels, measure))[measure] for one in (run, condensed))
        yield Holes(system, float(np.mean(shares)), own, value, without)


def report_scores(system: str, run: Run, qrels: Qrels) -> ScoreReport | None:
    """Compare the scores of relevant documents with those of others; None where only one kind was found."""
    grades = [is_relevant(grade) for judged in qrels.values() for grade in judged.values()]
    # A few documents that were judged not relevant are those that looked most relevant, and no sample of the others.
    judged_only = grades.count(False) >= grades.count(True)
    labels: list[list[bool]] = []
    scores: list[list[float]] = []
    for query, judged in qrels.items():
        kept = [
            (is_relevant(judged.get(name, 0)), score)
            for name, score in run.get(query, {}).items()
            if (name in judged or not judged_only) and math.isfinite(score)
        ]
        labels.append([label for label, _ in kept])
        scores.append([score for _, score in kept])
    every = np.array([score for own in scores for score in own], np.float64)
    marks = np.array([label for own in labels for label in own], bool)
    if marks.all() or not marks.any():  # also for none
        return None
    within = [auroc(np.array(own), np.array(marked)) for own, marked in zip(scores, labels, strict=True) if own]
    edges = np.unique(np.quantile(every, np.arange(1, _BINS) / _BINS, method="inverted_cdf"))
    places = np.searchsorted(edges, every, side="left")
    bins = [
        ScoreBin(float(every[own].min()), float(every[own].max()), int(own.sum()), float(marks[own].mean()))
        for own in (places == place for place in np.unique(places))
    ]
    return ScoreReport(
        system=system,
        documents=len(every),
        judged_only=judged_only,
        relevant=float(every[marks].mean()),
        others=float(every[~marks].mean()),
        within=_mean([value for value in within if value is not None]),
        across=auroc(every, marks),
        bins=bins,
    )


def auroc(scores: Floats, marks: NDArray[np.bool_]) -> float | None:
    """Return the chance that a marked score is above another one, ties as half; None where one kind is missing."""
    high, low = np.sort(scores[marks]), np.sort(scores[~marks])
    if not len(high) or not len(low):
        return None
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.sum() / (2 * len(high) * len(low)))
