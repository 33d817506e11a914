"""Rankings of ancestors: relevant documents by how many hops above their query they are.

A query whose id is a node of the hierarchy has the hops of its own ancestors. Any other, such as a text that describes
a node, is taken to stand one hop below the most specific of its relevant documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from hyperseek._ancestors import HOP_RANGES, Hierarchy, hop_grade, hop_range, hops_above
from hyperseek._fingerprint import fingerprint_json
from hyperseek._order import best_first
from hyperseek._relevance import is_relevant
from hyperseek.errors import InputError
from hyperseek.evaluation._measures import aggregate, calculate, check_depth, measure_names
from hyperseek.evaluation._ranking import Ranking
from hyperseek.evaluation._result import Evaluation
from hyperseek.types import Qrels

RECALL = "R@A"
"""Recall at as many documents as the query has ancestors."""


def ancestor_qrels(hierarchy: Hierarchy, names: Iterable[str], documents: Iterable[str]) -> Qrels:
    """Judge the ancestors of nodes relevant: 7 for ancestors one hop away, 1 less for each further hop, at least 1.

    Args:
        hierarchy: Of the ids.
        names: The nodes that are queries.
        documents: Ids of the documents; other ancestors cannot be found.

    Returns:
        Judgements of the nodes that have ancestors among the documents.
    """
    known = set(documents)
    qrels = {
        name: {ancestor: hop_grade(hops) for ancestor, hops in hierarchy.ancestors(name).items() if ancestor in known}
        for name in names
    }
    return {name: judged for name, judged in qrels.items() if judged}


def ancestor_hops(hierarchy: Hierarchy, qrels: Qrels) -> dict[str, dict[str, int]]:
    """Return how many hops above its query each relevant document is.

    Args:
        hierarchy: Of the documents' ids.
        qrels: Judgements. Relevant documents that are not in the hierarchy, or not above a query that is, are left out.

    Returns:
        `hops[query][document]`, for the queries that have any.

    Raises:
        InputError: There are none.
    """
    hops = {}
    for query, judged in qrels.items():
        found = hops_above(hierarchy, query, (document for document, grade in judged.items() if is_relevant(grade)))
        hops[query] = {document: count for document, count in found.items() if count}
    hops = {query: found for query, found in hops.items() if found}
    if not hops:
        raise InputError(
            "no relevant document is a node of the hierarchy above its query; do its ids name the documents?"
        )
    return hops


def evaluate_by_hops(
    ranking: Ranking, qrels: Qrels, hops: Mapping[str, Mapping[str, int]], *, measures: str | Iterable[str] = "default"
) -> dict[str, Evaluation]:
    """Measure how well ancestors are found, by how far away they are.

    Of each range of hops only the ancestors in it are relevant, and only the queries that have any count. Beside the
    given measures there is `R@A`, recall at as many documents as the query has ancestors of any distance. In the
    range of one hop, `RR` is the reciprocal rank of the first parent.

    Args:
        ranking: Of any system.
        qrels: The judgements that it was made for.
        hops: As `ancestor_hops` returns them.
        measures: Names of measures and of named sets.

    Returns:
        An evaluation for each range that has ancestors: `"1"`, `"2"`, `"3-4"`, `"5-8"`, `"9+"`. Those of several
        systems can be compared, range by range.

    Raises:
        InputError: A measure reads deeper than the ranking goes.
    """
    names = measure_names(measures)
    if ranking.protocol.k is not None:
        check_depth(names, ranking.protocol.k)
    best = {query: best_first(ranking.run.get(query, {}))[: len(found)] for query, found in hops.items()}
    evaluations = {}
    for name in HOP_RANGES:
        judged: Qrels = {}
        for query, found in hops.items():
            within = {document: qrels[query][document] for document, far in found.items() if hop_range(far) == name}
            if within:
                judged[query] = within
        if not judged:
            continue
        known = {query: ranking.run[query] for query in judged if query in ranking.run}
        values = calculate(known, judged, names) if known else {each: dict.fromkeys(judged, 0.0) for each in names}
        means = aggregate(values)
        values[RECALL] = {
            query: sum(document in own for document in best[query]) / len(own) for query, own in judged.items()
        }
        means[RECALL] = fmean(values[RECALL].values())
        protocol = ranking.protocol.model_copy(update={"qrels": fingerprint_json(judged)})
        evaluations[name] = Evaluation(name=ranking.name, per_query=values, aggregate=means, protocol=protocol)
    return evaluations
