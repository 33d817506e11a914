"""Rankings of ancestors: nodes that ask with their stored points, and relevant documents by hops above their query.

A query whose id is a node of the hierarchy has the hops of its own ancestors. Any other, such as a text that describes
a node, is taken to stand one hop below the most specific of its relevant documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hyperseek._ancestors import HOP_RANGES, Hierarchy, hop_grade, hop_range, hops_above
from hyperseek._fingerprint import fingerprint_json
from hyperseek._order import best_first
from hyperseek._relevance import is_relevant
from hyperseek.errors import InputError
from hyperseek.evaluation._measures import aggregate, calculate, check_depth, measure_names
from hyperseek.evaluation._ranking import Ranking, describe_index
from hyperseek.evaluation._result import Evaluation, Protocol, measuring_versions
from hyperseek.plan import EXACT
from hyperseek.scoring import LevelScorer, LinearScorer, Scorer, vectors_of
from hyperseek.types import NO_OPTIONS, Qrels, QueryOptions

if TYPE_CHECKING:
    from hyperseek.index import Index

RECALL = "R@A"
"""Recall at as many documents as the query has ancestors."""


def sample_nodes(hierarchy: Hierarchy, documents: Sequence[str], *, sample: int, seed: int = 0) -> list[str]:
    """Draw nodes that are documents and have an ancestor that is one.

    Args:
        hierarchy: Of the ids.
        documents: Ids of the documents.
        sample: Most nodes, at least 1.
        seed: Of the choice.

    Returns:
        The nodes, in a random order.

    Raises:
        InputError: There are none.
    """
    known = set(documents)
    nodes = [name for name in documents if not known.isdisjoint(hierarchy.ancestors(name))]
    if not nodes:
        raise InputError("no document has an ancestor among the documents; do the hierarchy's ids name documents?")
    order = np.random.default_rng(seed).permutation(len(nodes))[:sample]
    return [nodes[row] for row in order]


def node_scorer(index: Index, names: Sequence[str], options: Mapping[str, Any] | None = None) -> Scorer:
    """Make queries of the stored points of documents.

    Args:
        index: The documents.
        names: Their ids.
        options: In a space of levels those of its queries; other spaces have none.

    Returns:
        The queries, in the order of `names`.

    Raises:
        InputError: The points are sets of tokens, or a document is not in the index.
        UnknownNameError: The space does not understand an option.
    """
    space = index.space
    if space.ragged:
        raise InputError(
            f"the documents of a {space.kind!r} space are sets of vectors, which cannot be queries; give a data set, "
            f"whose queries the model encodes"
        )
    rows = stored_points(index, names)
    asked = QueryOptions.of(options)
    if space.levels > 1:
        return LevelScorer.of(space, rows, asked)
    asked.checked({})
    return LinearScorer(space, rows)


def stored_points(index: Index, names: Sequence[str]) -> Tensor:
    """Return the `(n, w)` stored points of documents, float32; InputError if one is not in the index."""
    wanted = {name: place for place, name in enumerate(names)}
    rows = torch.zeros(len(names), index.space.width)
    found = 0
    for ids, points in index.points():
        here = [(place, wanted[name]) for place, name in enumerate(ids) if name in wanted]
        if here:
            sources, targets = (torch.tensor(places) for places in zip(*here, strict=True))
            rows[targets] = vectors_of(points)[sources].float()
            found += len(here)
    if found < len(wanted):
        raise InputError(f"{len(wanted) - found} of {len(wanted)} nodes are no documents of the index")
    return rows


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


def rank_nodes(
    index: Index,
    scorer: Scorer,
    qrels: Qrels,
    *,
    k: int = 1000,
    name: str | None = None,
    system: Mapping[str, Any] | None = None,
) -> Ranking:
    """Search all other documents with nodes of a hierarchy, exhaustively.

    Args:
        index: The documents.
        scorer: The nodes that `qrels` judges, in order, as `node_scorer` makes them.
        qrels: Their judgements, as `ancestor_qrels` makes them.
        k: Documents per query, at least 1.
        name: The system's name; None takes the index's.
        system: What else to record about it.

    Returns:
        The ranking.
    """
    run = index.run({query: query for query in qrels}, k=k, scorer=scorer, engine=EXACT, exclude_same_id=True)
    described = {"kind": "nodes", "index": describe_index(index), **(system or {})}
    protocol = Protocol(
        dataset=index.info.name,
        data=index.data_fingerprint,
        qrels=fingerprint_json(qrels),
        k=k,
        exclude_same_id=True,
        options=NO_OPTIONS,
        system=described,
        versions=measuring_versions(),
    )
    return Ranking(name=name or Path(index.info.source or index.path).name, run=run, protocol=protocol)


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
