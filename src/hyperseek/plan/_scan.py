"""The exact scan: every document scored by every query, the best of them kept.

It streams chunks of documents, so memory holds one chunk's scores and each query's best so far. Equal scores rank by
insertion order, whatever the chunks. Shapes: `Q` queries, `n` documents of a chunk, `d` dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperseek._errors import InputError
from hyperseek._threads import one_core, run_on_cores
from hyperseek.scoring import Points, Scorer
from hyperseek.scoring._best import best_columns

# Queries of a group, which are scored at a time: with 32,768 documents, 4 MiB of scores.
_QUERIES = 32


def scan(scorer: Scorer, chunks: Iterable[Points], *, k: int, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the best `k` documents of every query.

    Args:
        scorer: `Q` compiled queries, `Q` at least 1.
        chunks: The documents in order, any number at a time.
        k: At least 1; may exceed the number of documents.
        excluded: `(Q,)` integers: for each query the row of a document to leave out, -1 for none.

    Returns:
        Scores, float32, and rows, integers counted from 0 over all chunks, both `(Q, min(k, N))` on the CPU. Best
        first; equal scores by row. Where an excluded document leaves too few, the last row is -1 and its score -inf.

    Raises:
        InputError: `k` is below 1, or a score is not a number.
    """
    if k < 1:
        raise InputError(f"k must be at least 1, not {k}")
    wanted = k if excluded is None else k + 1
    with torch.inference_mode():
        starts = range(0, len(scorer), _QUERIES)
        prepare, scored = _compiled(scorer, starts)
        best = [_Best(wanted, queries=range(start, min(start + _QUERIES, len(scorer)))) for start in starts]
        row = 0
        for chunk in chunks:
            prepared = prepare(chunk.to(scorer.device))
            # Other scorers than linear ones keep all cores busy with a single group.
            spread = scorer.linear() is not None and torch.get_num_threads() <= len(best)
            _add(best, scored, prepared, row, at_most=len(best) if spread and scorer.device.type == "cpu" else 1)
            row += len(chunk)
        scores, rows = torch.cat([part.scores for part in best]), torch.cat([part.rows for part in best])
    # A copy, since tensors made in inference mode can neither be changed nor used in training.
    scores, rows = scores.cpu().clone(), rows.cpu().clone()
    if excluded is not None:
        _exclude(scores, rows, excluded)
    return scores[:, :k], rows[:, :k]


def _compiled(scorer: Scorer, starts: range) -> tuple[Callable[[Points], Any], list[Callable[[Any], Tensor]]]:
    """Return what to make of a chunk once, and for each group of queries how to score what was made."""
    flat = scorer.space.kind in ("dot", "cosine")  # there a product of lifted points is the exact score
    vectors = scorer.linear() if flat else None
    if vectors is None:
        return _same, [scorer[start : start + _QUERIES].score for start in starts]
    chart = scorer.space.chart("inner_product")
    lifted = chart.lift_queries(vectors.float())
    groups: list[Callable[[Any], Tensor]] = [lifted[start : start + _QUERIES].matmul for start in starts]
    return lambda chunk: chart.lift_documents(chunk).T, groups


def _same(chunk: Points) -> Points:
    return chunk


def _add(
    best: Sequence[_Best], scored: Sequence[Callable[[Any], Tensor]], prepared: Any, row: int, *, at_most: int
) -> None:
    """Score a chunk that begins at `row` with every group of queries, `at_most` so many at a time."""
    pending = iter(list(zip(best, scored, strict=True)))

    def work() -> None:
        for found, score in pending:
            scores = score(prepared)
            with one_core():
                found.add(scores, row)

    run_on_cores(work, at_most=at_most)


class _Best:
    """The best `k` so far of a group of queries, sorted; equal scores by row."""

    def __init__(self, k: int, *, queries: range) -> None:
        self._k = k
        self._queries = queries
        self.scores = torch.empty(len(queries), 0)
        self.rows = torch.empty(len(queries), 0, dtype=torch.int64)

    def add(self, scores: Tensor, first_row: int) -> None:
        """Merge the `(Q, n)` scores of the documents from `first_row` on."""
        top, columns = best_columns(scores, self._k)
        undefined = top.isnan().any(dim=1)  # topk takes such scores first, so none escapes
        if undefined.any():
            query = self._queries[int(undefined.nonzero()[0])]
            raise InputError(f"query {query} (from 0) scores documents as not-a-number; are its own numbers finite?")
        rows = columns + first_row
        if first_row:
            top, rows = torch.cat([self.scores, top], dim=1), torch.cat([self.rows, rows], dim=1)
        order = top.sort(dim=1, descending=True, stable=True).indices[:, : self._k]
        self.scores, self.rows = top.gather(1, order), rows.gather(1, order)


def _exclude(scores: Tensor, rows: Tensor, excluded: Tensor) -> None:
    """Move each query's excluded document, if it was found, behind all others and mark it as nothing."""
    unwanted = rows == excluded[:, None]
    scores[unwanted] = -torch.inf
    rows[unwanted] = -1
    order = unwanted.to(torch.uint8).sort(dim=1, stable=True).indices
    scores.copy_(scores.gather(1, order))
    rows.copy_(rows.gather(1, order))
