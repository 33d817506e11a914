"""Exact scores: of all documents, keeping the best, and of each query's own candidates.

A scan streams chunks of documents, so memory holds one chunk's scores and each query's best so far. Equal scores rank
by insertion order, regardless of chunks. A float32 product loses the order of near ties, so for linear scorers of
spaces with known rounding errors, products select candidates, and those that they cannot separate are scored again in
float64: see `PreciseQueries`.

Shapes: `Q` queries, `N` documents, `n` documents of a chunk or candidates of a query, `d` dimensions.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperseek._machine import one_core, run_on_cores
from hyperseek._order import NOTHING, best_columns
from hyperseek.errors import InputError
from hyperseek.plan._rounding import PreciseQueries, equalised, exact_first, level, longest_norm, marks_of
from hyperseek.scoring import Points, Scorer, vectors_of
from hyperseek.store.snapshot import Snapshot

# Queries of a group, which are scored together: with 32,768 documents, 4 MiB of scores.
_QUERIES = 32
# Queries that share one product of a whole scan, and the scores of a block: larger products pack documents less often.
_TOGETHER = 128
_SCORES = 1 << 20
# A product on one core takes up to three times as long with more queries than the first and fewer than the second.
_FEW, _ENOUGH = 4, 16
# Folds of the scores of a block, whose maxima are compared first.
_FOLDS = 16
# Largest difference of equal documents' scores, relative to the highest: float32 sums differ by less.
_UNEVEN = 2.0**-12
# Differences of norms from 1 that are as small as the rounding of a product.
_EVEN = 2.0**-18
# How many more than k are scored in float64 at first: enough that a second pass is rare.
_SPARE = 16
# Points of candidates gathered at a time.
_GATHERED_BYTES = 16 << 20


def scan(scorer: Scorer, chunks: Iterable[Points], *, k: int, excluded: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the best `k` documents of every query.

    Args:
        scorer: `Q` compiled queries, `Q` at least 1.
        chunks: The documents in order, any number at a time.
        k: At least 1; may exceed the number of documents.
        excluded: `(Q,)` integers: for each query the row of a document to leave out, -1 for none.

    Returns:
        Scores, float32, and rows, integers counted from 0 over all chunks, both `(Q, min(k, N))` on the CPU. Best
        first, in the order of `wide_scan`. If an excluded document leaves too few, the last row is -1 and its score
        -inf.

    Raises:
        InputError: `k` is below 1, or a score is not a number.
    """
    if k < 1:
        raise InputError(f"k must be at least 1, not {k}")
    scores, rows = wide_scan(scorer, chunks, k=k if excluded is None else k + 1)
    if excluded is not None:
        _exclude(scores, rows, excluded)
    return scores[:, :k].float(), rows[:, :k]


def wide_scan(
    scorer: Scorer, chunks: Iterable[Points], *, k: int, longest: float | None = None
) -> tuple[Tensor, Tensor]:
    """Find the best `k` documents of every query, resolving near ties.

    Args:
        scorer: `Q` compiled queries, `Q` at least 1.
        chunks: The documents in order, any number at a time.
        k: At least 1.
        longest: `longest_norm` of all documents, if known; None to compute each chunk's.

    Returns:
        As `scan`, but scores are float64 if a linear scorer of a flat space ranks by them. Equal scores by row.

    Raises:
        InputError: A score is not a number.
    """
    return _stream(scorer, chunks, k, PreciseQueries.of(scorer), longest)


def whole_scan(
    scorer: Scorer, points: Points, *, k: int, longest: float, chunk_rows: int, uneven: float = math.inf
) -> tuple[Tensor, Tensor]:
    """Return the result of `wide_scan` for documents in memory, in less time.

    Float64 scores are computed once, for the best by float32 scores; if these rule out too few documents, `wide_scan`
    is used.

    Args:
        scorer: `Q` compiled queries, `Q` at least 1.
        points: The documents.
        k: At least 1.
        longest: `longest_norm` of all documents.
        chunk_rows: Documents of a chunk.
        uneven: `uneven_norms` of all documents, if known: where it is small, they need not be scaled to norm 1.

    Returns:
        As `wide_scan`.

    Raises:
        InputError: A score is not a number.
    """
    chunks = [points[start : start + chunk_rows] for start in range(0, len(points), chunk_rows)]
    precise, kept = PreciseQueries.of(scorer), k + max(_SPARE, k // 8)
    if precise is None or kept >= len(points) or scorer.device.type != "cpu":
        return wide_scan(scorer, chunks, k=k, longest=longest)
    as_stored = uneven <= _EVEN
    top, rows = _highest(
        scorer, points, kept, chunk_rows, as_stored=as_stored
    )  # float64 scores make equal documents equal
    scores = torch.empty(rows.shape, dtype=torch.float64)
    groups = [slice(start, start + _QUERIES) for start in range(0, len(scorer), _QUERIES)]
    pending = iter(groups)

    def work() -> None:
        for group in pending:
            scores[group] = precise[group].score(vectors_of(points), rows[group])

    run_on_cores(work, at_most=len(groups))
    scale = precise.scale(longest)
    best, found = exact_first(scores, rows, scale, k)
    # Unchosen documents score at most as high as the last chosen one.
    highest = precise.highest(top[:, -1:], scale) + (uneven if as_stored else 0.0)
    unsure = (highest >= best[:, -1:])[:, 0].nonzero()[:, 0]
    if len(unsure):
        best[unsure], found[unsure] = wide_scan(scorer[unsure], chunks, k=k, longest=longest)
    return best, found


def _highest(scorer: Scorer, points: Points, kept: int, chunk_rows: int, *, as_stored: bool) -> tuple[Tensor, Tensor]:
    """Return each query's `kept` highest float32 scores, best first, and their rows; equal scores in any order.

    A product of many queries reads and packs the documents once for all, so that cores share documents, not queries.
    """
    with torch.inference_mode():
        starts = range(0, len(scorer), _TOGETHER)
        prepare, scored = _compiled(scorer, starts, as_stored=as_stored)
        rows = min(chunk_rows, max(1, _SCORES // min(len(scorer), _TOGETHER)))
        best = [_Highest(range(start, min(start + _TOGETHER, len(scorer))), kept) for start in starts]
        places = range(0, len(points), rows)
        pending = iter([(place, found, score) for place in places for found, score in zip(best, scored, strict=True)])
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    task = next(pending, None)
                if task is None:
                    return
                place, found, score = task
                scores = score(prepare(points[place : place + rows]))
                with one_core():
                    found.add(scores, place)

        run_on_cores(work, at_most=len(places) * len(best))
        return torch.cat([found.scores for found in best]), torch.cat([found.rows for found in best])


class _Highest:
    """The highest scores of a group of queries, from blocks in any order."""

    def __init__(self, queries: range, kept: int) -> None:
        self._queries, self._kept = queries, kept
        self._lock = threading.Lock()
        self.scores, self.rows = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)

    def add(self, scores: Tensor, row: int) -> None:
        """Merge the `(Q, n)` scores of a block that begins at a row."""
        top, columns = self._risen(scores) or best_columns(scores, self._kept)
        _check_defined(top, self._queries)
        with self._lock:
            joined, rows = torch.cat([self.scores, top], dim=1), torch.cat([self.rows, columns + row], dim=1)
            self.scores, order = joined.topk(min(self._kept, joined.shape[1]), dim=1)
            self.rows = rows.gather(1, order)

    def _risen(self, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the scores of a block that reach those kept so far, and their columns; None where they are many.

        After the first block few do. Folded scores tell where they are after reading all scores once.
        """
        with self._lock:
            known = self.scores
        if known.shape[1] < self._kept or scores.shape[1] < _FOLDS or not known.isfinite().all():
            return None
        least, size = known[:, -1:], scores.shape[1] // _FOLDS
        whole = size * _FOLDS
        folded = scores[:, :whole].view(len(scores), _FOLDS, size)
        query, place = (~(folded.amax(dim=1) < least)).nonzero(as_tuple=True)  # with those that are not a number
        entries = folded[query, :, place]
        which, fold = (~(entries < least[query])).nonzero(as_tuple=True)
        rest_query, rest = (~(scores[:, whole:] < least)).nonzero(as_tuple=True)
        queries = torch.cat([query[which], rest_query])
        columns = torch.cat([fold * size + place[which], rest + whole])
        counts = torch.bincount(queries, minlength=len(scores))
        width = int(counts.max())
        if width > self._kept:
            return None
        queries, order = queries.sort()
        columns = columns[order]
        slots = torch.arange(len(queries)) - (counts.cumsum(0) - counts)[queries]
        top = torch.full((len(scores), width), -torch.inf)  # never kept: those that are kept are finite
        top[queries, slots] = scores[queries, columns]
        return top, torch.zeros(len(scores), width, dtype=torch.int64).index_put_((queries, slots), columns)


def _check_defined(top: Tensor, queries: range) -> None:
    """Raise InputError if a score is not a number: such scores are chosen first, so none is missed."""
    undefined = top.isnan().any(dim=1)
    if undefined.any():
        query = queries[int(undefined.nonzero()[0])]
        raise InputError(f"query {query} (from 0) scores documents as not-a-number; are its own numbers finite?")


def _stream(
    scorer: Scorer,
    chunks: Iterable[Points],
    k: int,
    precise: PreciseQueries | None,
    longest: float | None,
) -> tuple[Tensor, Tensor]:
    """Find the best `k` of chunks of documents: by float64 scores with `precise`, otherwise by levelled ones."""
    with torch.inference_mode():
        starts = range(0, len(scorer), _QUERIES)
        prepare, scored = _compiled(scorer, starts)
        best = [
            _Best(k, range(start, min(start + _QUERIES, len(scorer))), precise and precise[start : start + _QUERIES])
            for start in starts
        ]
        row = 0
        for chunk in chunks:
            there = chunk.to(scorer.device)
            # Scorers that are not linear keep all cores busy with a single group.
            spread = (scorer.points or scorer.linear() is not None) and torch.get_num_threads() <= len(best)
            at_most = len(best) if spread and scorer.device.type == "cpu" else 1
            known = (
                longest_norm(precise.space, vectors_of(there))
                if precise is not None and longest is None
                else longest or 0.0
            )
            _add(best, scored, prepare(there), _Chunk(row, there, known), at_most=at_most)
            row += len(chunk)
        scores, rows = torch.cat([part.scores for part in best]), torch.cat([part.rows for part in best])
    # Copied, since tensors made in inference mode can be neither changed nor used in training.
    return scores.cpu().clone(), rows.cpu().clone()


def _compiled(
    scorer: Scorer, starts: range, *, as_stored: bool = False
) -> tuple[Callable[[Points], Any], list[Callable[[Any], Tensor]]]:
    """Return a function that prepares a chunk, and for each group of queries one that scores a prepared chunk.

    With `as_stored`, products are of documents as they are stored: scaling them to norm 1 again takes as long as the
    product with a hundred queries.
    """
    size = starts.step
    vectors = scorer.linear() if scorer.space.plain_product else None
    if vectors is None:
        return _same, [scorer[start : start + size].score for start in starts]
    chart = scorer.space.chart("inner_product")
    lifted = chart.lift_queries(vectors.float())
    groups = [_product(lifted[start : start + size]) for start in starts]
    return lambda chunk: (vectors_of(chunk).float() if as_stored else chart.lift_documents(chunk)).T, groups


def _product(queries: Tensor) -> Callable[[Any], Tensor]:
    """Return a function that multiplies queries with prepared documents; a few as if they were 16, which takes less."""
    count = len(queries)
    if queries.device.type != "cpu" or not _FEW < count < _ENOUGH:
        return queries.matmul
    padded = torch.cat([queries, queries.new_zeros(_ENOUGH - count, queries.shape[1])])
    return lambda documents: padded.matmul(documents)[:count]


def _same(chunk: Points) -> Points:
    return chunk


class _Chunk(NamedTuple):
    """Documents, the row of the first one, and their `longest_norm`."""

    row: int
    points: Points
    longest: float


def _add(
    best: Sequence[_Best], scored: Sequence[Callable[[Any], Tensor]], prepared: Any, chunk: _Chunk, *, at_most: int
) -> None:
    """Score a chunk with every group of queries, up to `at_most` at a time."""
    pending = iter(list(zip(best, scored, strict=True)))

    def work() -> None:
        for found, score in pending:
            scores = score(prepared)
            with one_core():
                found.add(scores, chunk)

    run_on_cores(work, at_most=at_most)


class _Best:
    """The best `k` so far of a group of queries, sorted; equal scores by row."""

    def __init__(self, k: int, queries: range, precise: PreciseQueries | None) -> None:
        self._k = k
        self._queries = queries
        self._precise = precise
        self._longest = 0.0
        self._marks = torch.empty(len(queries), 0, dtype=torch.int64)
        self.scores = torch.empty(len(queries), 0, dtype=torch.float32 if precise is None else torch.float64)
        self.rows = torch.empty(len(queries), 0, dtype=torch.int64)

    def add(self, scores: Tensor, chunk: _Chunk) -> None:
        """Merge the `(Q, n)` float32 scores of a chunk's documents."""
        spare = 0 if self._precise is None else max(_SPARE, self._k // 8)
        top, columns = best_columns(scores, self._k + spare)
        _check_defined(top, self._queries)
        self.scores, self.rows = self.scores.to(scores.device), self.rows.to(scores.device)
        if self._precise is not None:
            self._add_exactly(self._precise, scores, top, columns, chunk)
        else:
            self._add_levelled(scores, top, columns, chunk)

    def _add_levelled(self, scores: Tensor, top: Tensor, columns: Tensor, chunk: _Chunk) -> None:
        """Level equal documents among all that may be among the best but for rounding."""
        if not top.shape[1]:
            return
        finite = torch.where(top.isfinite(), top.abs(), 0.0).amax(dim=1, keepdim=True)
        near = (scores >= top[:, -1:] - _UNEVEN * finite).any(dim=0).nonzero()[:, 0]
        marks = scores.new_empty(scores.shape[1], dtype=torch.int64)
        marks[near] = marks_of(chunk.points[near])
        levelled = level(unlevelled := scores[:, near], marks[near])
        if levelled is not unlevelled:
            top, places = best_columns(levelled, self._k)
            columns = near[places]
        joined, rows = self._with(slice(None), top, columns + chunk.row)
        both = torch.cat([self._marks.to(marks.device), marks[columns]], dim=1)
        if self.scores.shape[1]:
            joined = level(joined, both)
        self._marks = both.gather(1, self._keep(joined, rows))

    def _add_exactly(
        self, precise: PreciseQueries, scores: Tensor, top: Tensor, columns: Tensor, chunk: _Chunk
    ) -> None:
        """Score in float64 every document that its float32 score does not rule out."""
        self._longest = max(self._longest, chunk.longest)
        scale, known = precise.scale(self._longest), precise.scale(chunk.longest)
        highest = precise.highest(top, known)
        width = int((highest >= self._least()).sum(dim=1).max()) if len(top) else 0  # the first ones of each
        exact = precise.score(vectors_of(chunk.points), columns[:, :width])
        before = self.scores, self.rows
        self.scores, self.rows = exact_first(
            *self._with(slice(None), exact, columns[:, :width] + chunk.row), scale, self._k
        )
        if top.shape[1] == scores.shape[1]:
            return
        # Unchosen documents score at most as high as the last chosen one.
        unsure = (highest[:, -1:] >= self._least())[:, 0].nonzero()[:, 0]
        found, least = (self.scores, self.rows), self._least()
        self.scores, self.rows = before
        for query in unsure.tolist():
            one = slice(query, query + 1)
            own, ranges = precise[one], None if known is None else known[one]
            near = (own.highest(scores[one], ranges) >= least[one])[0].nonzero().T
            joined = self._with(one, own.score(vectors_of(chunk.points), near), near + chunk.row)
            found[0][one], found[1][one] = exact_first(*joined, None if scale is None else scale[one], self._k)
        self.scores, self.rows = found

    def _keep(self, scores: Tensor, rows: Tensor) -> Tensor:
        """Keep the best of `(Q, n)` scores, earlier ones first, and return their `(Q, min(k, n))` places."""
        # Earlier rows are lower, and equal scores of a chunk are in order.
        self.scores, order = best_columns(scores, self._k)
        self.rows = rows.gather(1, order)
        return order

    def _least(self) -> Tensor:
        """Return `(Q, 1)` scores that a document must reach."""
        if self.scores.shape[1] < self._k:
            return torch.full((len(self.scores), 1), -torch.inf, dtype=self.scores.dtype, device=self.scores.device)
        return self.scores[:, self._k - 1 :]

    def _with(self, queries: slice, scores: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([self.scores[queries], scores], dim=1), torch.cat([self.rows[queries], rows], dim=1)


def _exclude(scores: Tensor, rows: Tensor, excluded: Tensor) -> None:
    """Move each query's excluded document, if found, after all others and mark it as missing."""
    unwanted = rows == excluded[:, None]
    scores[unwanted] = -torch.inf
    rows[unwanted] = -1
    order = unwanted.to(torch.uint8).sort(dim=1, stable=True).indices
    scores.copy_(scores.gather(1, order))
    rows.copy_(rows.gather(1, order))


def exact_scores(snapshot: Snapshot, scorer: Scorer, rows: Tensor) -> Tensor:
    """Score each query's candidates.

    Args:
        snapshot: The documents.
        scorer: `Q` compiled queries.
        rows: `(Q, n)` rows; `NOTHING` may appear anywhere.

    Returns:
        `(Q, n)` on the CPU, float32, or float64 if `wide_scan` ranks by it; minus infinity for `NOTHING`.
        Scores that differ by rounding alone are made equal, and so are those of equal documents.
    """
    scores = torch.full(rows.shape, -torch.inf)
    if (rows == NOTHING).all():
        return scores
    scorer, part = scorer.narrowed() or (scorer, None)
    with one_core():
        distinct, places = torch.unique(rows.clamp_min(0), return_inverse=True)
        points = snapshot.points(distinct, part=part)
    precise = PreciseQueries.of(scorer)
    with torch.inference_mode():
        if precise is not None:
            return _score_precisely(precise, vectors_of(points).to(scorer.device), places, rows)
        if scorer.points or scorer.linear() is not None:
            _score_together(scorer, vectors_of(points), places, scores)
        else:
            _score_in_turn(scorer, points, places, rows != NOTHING, scores)
        levelled = level(scores, marks_of(points)[places])
    return levelled.masked_fill(rows == NOTHING, -torch.inf)


def _score_precisely(precise: PreciseQueries, vectors: Tensor, places: Tensor, rows: Tensor) -> Tensor:
    with one_core():
        scores = precise.score(vectors, places.to(vectors.device)).cpu().masked_fill(rows == NOTHING, -torch.inf)
        scale = precise.scale(longest_norm(precise.space, vectors))
        return equalised(scores, None if scale is None else scale.cpu())


def _score_together(scorer: Scorer, vectors: Tensor, places: Tensor, scores: Tensor) -> None:
    step = max(1, _GATHERED_BYTES // (places.shape[1] * vectors.shape[1] * 4))
    with one_core():
        for start in range(0, len(places), step):
            part = places[start : start + step]
            own = vectors.index_select(0, part.flatten()).view(*part.shape, -1).to(scorer.device)
            scores[start : start + step] = scorer[start : start + step].score_own(own).float().cpu()


def _score_in_turn(scorer: Scorer, points: Points, places: Tensor, present: Tensor, scores: Tensor) -> None:
    for query, own in enumerate(places):
        if present[query].any():
            part = points[own[present[query]]].to(scorer.device)
            scores[query, present[query]] = scorer[query : query + 1].score(part)[0].float().cpu()
