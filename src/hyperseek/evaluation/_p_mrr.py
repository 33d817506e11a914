"""p-MRR: does a ranking follow a change of instruction?

The measure of FollowIR (arXiv 2403.15246). Every query is run twice, with its original and with a changed
instruction, and some documents' relevance differs between the two. p-MRR compares the ranks of those documents: 100
means that all moved as they should, 0 that nothing moved, -100 that they moved the wrong way.

FollowIR's instructions only narrow, so there documents only lose relevance, and should fall. Here one that gains
relevance should rise, with the same formula and the opposite sign. A document that is not judged, or graded below 0,
has relevance 0.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from statistics import fmean

from hyperseek._errors import InputError
from hyperseek._order import best_first
from hyperseek.evaluation._measures import numeric_scores
from hyperseek.records import Qrels, Run

_logger = logging.getLogger(__name__)


def p_mrr(per_query: Mapping[str, float]) -> float:
    """Aggregate `p_mrr_per_query` as FollowIR reports it: the mean over queries times 100, in -100 to 100."""
    if not per_query:
        raise InputError("p-MRR needs at least one query whose judgements changed and that both runs have")
    return 100.0 * fmean(per_query.values())


def p_mrr_per_query(
    original_run: Run, changed_run: Run, original_qrels: Qrels, changed_qrels: Qrels
) -> dict[str, float]:
    """Compare the ranks of the documents whose relevance changed with the instruction.

    A document that a run does not hold ranks just after its last one. Equal scores keep the run's order; documents
    that are equal in both runs have the same order in both, that of the original, so that nothing moves unless a score
    does.

    Args:
        original_run: Rankings under the original instructions.
        changed_run: Rankings under the changed ones, by the same query ids.
        original_qrels: Judgements under the original instructions.
        changed_qrels: Judgements under the changed ones.

    Returns:
        For each query with changed documents that both runs have, the mean over those documents, in -1 to 1: above 0
        where documents moved as their relevance did.

    Raises:
        InputError: A score is not a number.
    """
    result: dict[str, float] = {}
    for query in dict.fromkeys([*original_qrels, *changed_qrels]):
        changes = _changes(original_qrels.get(query, {}), changed_qrels.get(query, {}))
        if not changes:
            continue
        if query not in original_run or query not in changed_run:
            _logger.warning("p-MRR leaves out query %s, which one of the two runs lacks", query)
            continue
        old, new = _ranks(*(numeric_scores(query, run[query]) for run in (original_run, changed_run)))
        moves = {name: _fall(old.get(name, len(old) + 1), new.get(name, len(new) + 1)) for name in changes}
        result[query] = fmean(-fall if changes[name] > 0 else fall for name, fall in moves.items())
    return result


def _changes(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return by how much documents gained relevance, of those whose relevance changed."""
    gains = {name: max(after.get(name, 0), 0) - max(before.get(name, 0), 0) for name in [*before, *after]}
    return {name: gain for name, gain in gains.items() if gain}


def _ranks(original: Mapping[str, float], changed: Mapping[str, float]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the ranks of both runs, from 1."""
    old = {name: rank for rank, name in enumerate(best_first(original), start=1)}
    new = best_first(changed)
    equal: dict[tuple[float, float], list[int]] = {}
    for place, name in enumerate(new):
        if name in original:
            equal.setdefault((original[name], changed[name]), []).append(place)
    ranks = {name: rank for rank, name in enumerate(new, start=1)}
    for places in equal.values():
        names = sorted((new[place] for place in places), key=old.__getitem__)
        ranks.update({name: place + 1 for name, place in zip(names, places, strict=True)})
    return old, ranks


def _fall(old: int, new: int) -> float:
    """Return how far a document fell, in -1 to 1: above 0 where its rank became larger."""
    return new / old - 1 if old >= new else 1 - old / new
