"""p-MRR: does a ranking follow a change of instruction?

The measure of FollowIR (arXiv 2403.15246). Every query is run twice, with its original and with a changed
instruction, and some documents' relevance differs between the two. p-MRR compares the ranks of those documents: 100
means that they fell as they should, 0 that nothing moved, -100 that they rose.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from statistics import fmean

from hyperseek._errors import InputError
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

    A document that a run does not hold ranks just after its last one. Equal scores keep the run's order.

    Args:
        original_run: Rankings under the original instructions.
        changed_run: Rankings under the changed ones, by the same query ids.
        original_qrels: Judgements under the original instructions.
        changed_qrels: Judgements under the changed ones; a document in one of the two alone counts as changed.

    Returns:
        For each query with changed documents that both runs have, the mean over those documents, in -1 to 1.
    """
    result: dict[str, float] = {}
    for query, before in original_qrels.items():
        changed = _changed(before, changed_qrels.get(query, {}))
        if not changed:
            continue
        if query not in original_run or query not in changed_run:
            _logger.warning("p-MRR leaves out query %s, which one of the two runs lacks", query)
            continue
        old, new = _ranks(original_run[query]), _ranks(changed_run[query])
        result[query] = fmean(
            _rank_change(old.get(document, len(old) + 1), new.get(document, len(new) + 1)) for document in changed
        )
    return result


def _changed(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    documents = dict.fromkeys([*before, *after])
    return [document for document in documents if before.get(document) != after.get(document)]


def _ranks(ranking: Mapping[str, float]) -> dict[str, int]:
    best_first = sorted(ranking, key=lambda document: ranking[document], reverse=True)
    return {document: rank for rank, document in enumerate(best_first, start=1)}


def _rank_change(old: int, new: int) -> float:
    return new / old - 1 if old >= new else 1 - old / new
