"""Reranking: exact scores of the documents that a list gives for each query, and of no others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from hyperseek._bounded import PathLike
from hyperseek._fingerprint import fingerprint_json
from hyperseek._long_work import progress
from hyperseek._order import best_first
from hyperseek._relevance import excluded_ids
from hyperseek.data import read_candidates
from hyperseek.errors import InputError, shown
from hyperseek.scoring import Scorer
from hyperseek.types import Query, Run

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.index import Index
    from hyperseek.mining import BM25

Candidates: TypeAlias = Mapping[str, Sequence[str]] | Run
"""Documents to rerank, by query, in their order: lists of ids, or a run, best first."""

OWN = "own"
"""What stands for a data set's own lists, instead of a file."""

_QUERIES = 64  # of a group, whose documents are in memory together


def candidate_lists(candidates: Candidates) -> dict[str, list[str]]:
    """Return lists of ids, each id once.

    Args:
        candidates: Lists, or a run.

    Returns:
        The ids by query, in their order.

    Raises:
        InputError: These are no lists of ids by query.
    """
    if not isinstance(candidates, Mapping):
        raise InputError(f"candidates must be lists of ids by query, or a run, not {shown(candidates)}")
    lists: dict[str, list[str]] = {}
    for query, ids in candidates.items():
        if isinstance(ids, Mapping):
            ids = best_first(ids)
        if isinstance(ids, str) or not isinstance(ids, Sequence) or not all(isinstance(one, str) for one in ids):
            raise InputError(f"candidates of query {query!r} must be a list of ids, not {shown(ids)}")
        lists[query] = list(dict.fromkeys(ids))
    return lists


def candidates_of(dataset: Dataset, given: PathLike) -> dict[str, list[str]]:
    """Read a file of candidates, or with `OWN` take those that the data set gives.

    Args:
        dataset: The data set.
        given: The file, or `OWN`.

    Returns:
        Ids by query, best first.

    Raises:
        DataError: The file is missing or damaged.
        InputError: The data set gives none.
    """
    if str(given) != OWN:
        return read_candidates(given)
    own = dataset.candidates()
    if own is None:
        raise InputError(f"{dataset.name} gives no documents to rerank; name a file of them")
    return own


def fingerprint_candidates(candidates: Candidates) -> str:
    """Return what tells lists apart: reranking is compared only with reranking of the same lists."""
    return fingerprint_json(candidate_lists(candidates))


def rerank(
    index: Index,
    queries: Sequence[Query],
    candidates: Candidates,
    *,
    k: int,
    exclude_same_id: bool = False,
    options: Mapping[str, Any] | None = None,
    scorer: Scorer | None = None,
) -> Run:
    """Rank each query's candidates by the scores of an index, equal scores in the order of the list.

    Args:
        index: Holds all candidates.
        queries: With unique ids; documents that their metadata list as `excluded_ids` are left out.
        candidates: By query; a query without any gets no ranking.
        k: Most documents of each, at least 1.
        exclude_same_id: Leave out a document whose id is the query's.
        options: Of the model for the queries.
        scorer: The queries compiled already, in order.

    Returns:
        Scores by query and document, best first.

    Raises:
        InputError: A candidate is not in the index.
    """
    lists = _wanted(queries, candidates, exclude_same_id=exclude_same_id)
    _check_known(lists, set(index.ids), f"the index {index.path}")
    run: Run = {}
    with progress("reranking", len(queries), unit="queries") as bar:
        for start in range(0, len(queries), _QUERIES):
            group = queries[start : start + _QUERIES]
            ids = [lists[query.id] for query in group]
            asked = [query.text for query in group] if scorer is None else scorer[start : start + _QUERIES]
            scores = index.score(asked, ids, options=options if scorer is None else None)
            for query, own, found in zip(group, ids, scores, strict=True):
                run[query.id] = _best(own, found, k)
            bar.advance(len(group))
    return run


def rerank_bm25(
    index: BM25, queries: Sequence[Query], candidates: Candidates, *, k: int, exclude_same_id: bool = False
) -> Run:
    """Rank each query's candidates by BM25, as `rerank` does; those without a common term score 0 and come last."""
    lists = _wanted(queries, candidates, exclude_same_id=exclude_same_id)
    _check_known(lists, set(index.ids), "the corpus of BM25")
    scores = index.scores([query.text for query in queries], [lists[query.id] for query in queries])
    return {query.id: _best(lists[query.id], own, k) for query, own in zip(queries, scores, strict=True)}


def as_given(queries: Sequence[Query], candidates: Candidates, *, k: int, exclude_same_id: bool = False) -> Run:
    """Return the candidates as the run that they are: in their own order, scored by their places."""
    lists = _wanted(queries, candidates, exclude_same_id=exclude_same_id)
    return {query: {one: float(len(ids) - place) for place, one in enumerate(ids[:k])} for query, ids in lists.items()}


def _best(ids: Sequence[str], scores: Sequence[float], k: int) -> dict[str, float]:
    found = dict(zip(ids, scores, strict=True))
    return {name: found[name] for name in best_first(found)[:k]}


def _wanted(queries: Sequence[Query], candidates: Candidates, *, exclude_same_id: bool) -> dict[str, list[str]]:
    lists, excluded = candidate_lists(candidates), excluded_ids(queries)
    wanted = {}
    for query in queries:
        left_out = excluded.get(query.id, frozenset()) | ({query.id} if exclude_same_id else set())
        wanted[query.id] = [one for one in lists.get(query.id, ()) if one not in left_out]
    if queries and not any(wanted.values()):
        if any(query.id in lists for query in queries):
            raise InputError(f"the candidates of all {len(queries)} queries are empty; give at least one document")
        if not lists:
            raise InputError("there are no candidates at all; is the file empty?")
        raise InputError(
            f"the candidates have none of the {len(queries)} queries; theirs are {shown(list(lists)[:3])}, asked are "
            f"{shown([query.id for query in queries[:3]])}"
        )
    return wanted


def _check_known(lists: Mapping[str, Sequence[str]], known: set[str], where: str) -> None:
    given = {one for ids in lists.values() for one in ids}
    missing = sorted(given - known)
    if missing:
        raise InputError(
            f"{len(missing)} of {len(given)} candidates are not in {where}, such as {missing[0]!r}; give lists of its "
            "documents"
        )
