"""Rankings along a hierarchy: at the levels of a model, and of ancestors by hops above their query.

Levels are numbered from 1, the broadest. A query at level m may be compared with documents at another level n. Queries
are encoded once for all levels.

Nodes of a hierarchy ask with their stored points. A query whose id is a node of the hierarchy has the hops of its own
ancestors. Any other, such as a text that describes a node, is taken to stand one hop below the most specific of its
relevant documents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
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
from hyperseek.evaluation._ranking import Ranking, describe_index, rank_index
from hyperseek.evaluation._result import Evaluation, Protocol, measuring_versions
from hyperseek.plan import EXACT
from hyperseek.scoring import LevelScorer, LinearScorer, Scorer, vectors_of
from hyperseek.types import NO_OPTIONS, Qrels, QueryOptions

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.index import Index
    from hyperseek.plan import PlanLike

LevelPair = tuple[int, int]
"""The level of queries and that of documents."""


def level_pairs(levels: int) -> list[LevelPair]:
    """Return all pairs of a query's and a document's level: equal ones first, the narrowest before all others."""
    equal = [(level, level) for level in range(levels, 0, -1)]
    return equal + [(m, n) for m in range(1, levels + 1) for n in range(1, levels + 1) if m != n]


def at_levels(name: str, pair: LevelPair) -> str:
    """Name a system at a pair of levels: `NAME@4`, or `NAME@4-1` for queries at 4 and documents at 1."""
    query, document = pair
    return f"{name}@{query}" if query == document else f"{name}@{query}-{document}"


def rank_levels(
    index: Index,
    dataset: Dataset,
    *,
    pairs: Sequence[LevelPair] | None = None,
    split: str = "test",
    k: int = 1000,
    exclude_same_id: bool = False,
    name: str | None = None,
    engine: str = "exact",
    plan: PlanLike | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Ranking]:
    """Search an index at several levels; the queries are encoded once.

    The levels are part of each ranking's system, not of its options, so that levels can be compared with each other
    and with systems that have none.

    Args:
        index: Index of a model with levels.
        dataset: Queries and judgements.
        pairs: Levels of queries and documents; None takes all pairs, the narrowest level first.
        split: As for `rank_index`.
        k: As for `rank_index`.
        exclude_same_id: As for `rank_index`.
        name: As for `rank_index`; followed by `@` and the level, as in `NAME@4`, or `NAME@4-1` across levels.
        engine: As for `rank_index`.
        plan: As for `rank_index`.
        options: Other options of the queries, as `relation`.

    Returns:
        A ranking for each pair.

    Raises:
        InputError: The model has no levels, an option is a level, or as for `rank_index`.
        UnknownNameError: There is no such split, or the model does not understand an option.
    """
    asked = QueryOptions.of(options)
    scorer = index.model.compile([query.text for query in dataset.queries(split)], asked)
    searched = {"split": split, "k": k, "exclude_same_id": exclude_same_id, "engine": engine, "plan": plan}
    rankings = []
    for pair, placed in scorers_at_levels(scorer, pairs).items():
        ranking = rank_index(index, dataset, scorer=placed, **searched)  # type: ignore[arg-type]
        system = {**ranking.protocol.system, "level": pair[0], "document_level": pair[1]}
        protocol = ranking.protocol.model_copy(update={"options": asked, "system": system})
        rankings.append(replace(ranking, name=at_levels(name or ranking.name, pair), protocol=protocol))
    return rankings


def scorers_at_levels(scorer: Scorer, pairs: Sequence[LevelPair] | None = None) -> dict[LevelPair, Scorer]:
    """Return the same queries at pairs of levels, all unless given; InputError if they have no levels."""
    levels = scorer.space.levels
    if levels < 2:
        raise InputError(
            f"these queries have no levels to compare: they are {scorer.kind!r} ones of a {scorer.space.kind!r} "
            f"space; give the index of a model with levels"
        )
    odd = {"level", "document_level", "broaden"} & set(scorer.options)
    if odd:
        raise InputError(f"all levels are compared, so leave out the option {sorted(odd)[0]!r}")
    return {pair: scorer.at(level=pair[0], document_level=pair[1]) for pair in pairs or level_pairs(levels)}


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
