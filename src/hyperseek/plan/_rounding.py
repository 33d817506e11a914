"""What rounding hides: equal documents get equal scores, and products of features only rule documents out.

Most scorers are chains of matrix products, whose last bits depend on a document's place in a block. So documents with
the same stored numbers are recognised by a mark, and take the highest of their scores.

In curved spaces, products of float32 features lose the order of near documents, most of all far from the origin. But
their rounding error has a proven bound, so that they bound scores from above: exact scores decide on the few documents
that are left. Where the bounds do not tell enough documents apart, every document is scored.

In flat spaces the same is true of near ties alone, which `PreciseQueries` scores in float64.

Shapes: `Q` queries, `N` documents, `n` documents of a query's own, `f` features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hyperseek._machine import run_on_cores
from hyperseek._order import best_columns, best_positions
from hyperseek.scoring import Chart, Points, Scorer, Space, VectorPoints, vectors_of
from hyperseek.store.snapshot import Snapshot

ROUNDING = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}
"""Rounding of a product's factors, by torch's setting: float32, TF32, bfloat16."""

# Numbers that are marked at a time: they stay in a core's cache.
_MARKED = 1 << 16
# Queries of a group, and bounds that are computed at a time: they stay in a core's cache.
_QUERIES = 32
_BOUNDS = 1 << 20
# How many more than k are scored exactly at first.
_SPARE = 16
# Documents whose features are computed at a time.
_LIFTED = 8192
# Norms of features up to which products are finite, and bounds of any use.
_LONGEST = 1e15
# Roundings of a feature, in units of the last place: its radius, of at most 35, and the functions of it.
_OPERATIONS = 64
# Points of candidates scored in float64 at a time: they stay in a core's cache.
_PRECISE_BYTES = 1 << 20
# Operations on a coordinate in addition to its sum: scaling to norm 1, a difference, a root.
_STEPS = 32
# Relative differences of float64 scores up to this come from the order of their sums.
_SAME = 2.0**-46
# Relative rounding of exact scores, with room.
_EXACT = 2.0**-16


def marks_of(points: Points) -> Tensor:
    """Mark documents by their stored numbers.

    Args:
        points: `N` documents.

    Returns:
        `(N,)` int64 on their device: the same for equal documents, different for others except with a probability
        of 2⁻⁶⁴.
    """
    rows = _marks(points.rows)
    if points.single:
        return rows
    lengths = points.lengths
    owner = torch.repeat_interleave(lengths)
    place = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[owner]
    # The place of a row counts, and the number of rows.
    return (lengths * _odd(1, lengths.device)).index_add(0, owner, rows * (2 * place + 1))


def level(scores: Tensor, marks: Tensor) -> Tensor:
    """Give equal documents of each query their highest score.

    Args:
        scores: `(Q, n)`.
        marks: `(Q, n)`, or `(n,)` for the same documents of all queries.

    Returns:
        `(Q, n)`.
    """
    if marks.ndim == 1:
        distinct, group = torch.unique(marks, return_inverse=True)
        if len(distinct) == len(marks):
            return scores
        group = group.expand_as(scores)
    else:
        ordered, order = marks.sort(dim=1)
        new = torch.ones_like(ordered)
        new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        if new.all():
            return scores
        group = torch.empty_like(order).scatter_(1, order, new.cumsum(dim=1) - 1)
    highest = torch.full_like(scores, -torch.inf).scatter_reduce(1, group, scores, "amax")
    return highest.gather(1, group)


def _marks(vectors: Tensor) -> Tensor:
    words = 8 // vectors.element_size()  # that make a number of 64 bits
    spare = -vectors.shape[1] % words
    weights = _odd((vectors.shape[1] + spare) // words, vectors.device)
    marks = []
    for part in torch.split(vectors, max(1, _MARKED // max(1, len(weights)))):
        # A copy, even where nothing is spare, and so of a part only.
        bits = torch.nn.functional.pad(part, (0, spare)).contiguous().view(torch.int64)
        marks.append((_mixed(bits) * weights).sum(dim=1))  # wraps around
    return torch.cat(marks)


def _mixed(bits: Tensor) -> Tensor:
    """Spread bits over the whole number: round ones end in many zeros, which products keep."""
    spread = bits * -0x61C8864680B583EB  # the golden ratio's, as in Fibonacci hashing
    return (spread >> 32).bitwise_xor_(spread).mul_(-0x61C8864680B583EB)


def _odd(count: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0x5EED)
    drawn = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    return (2 * drawn + 1).to(device)


def product_scan(
    snapshot: Snapshot,
    scorer: Scorer,
    *,
    k: int,
    exact: Callable[[Snapshot, Scorer, Tensor], Tensor],
    otherwise: Callable[[Scorer], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor] | None:
    """Find the best `k` documents of every query.

    Args:
        snapshot: The documents, in memory.
        scorer: `Q` compiled queries, `Q` at least 1.
        k: At least 1.
        exact: Returns the exact scores of `(Q, n)` rows.
        otherwise: Does the same by scoring every document.

    Returns:
        Scores and rows `(Q, min(k, N))` as `wide_scan` returns them; None where products do not tell scores, or there
        is no room in memory for features.
    """
    geometry, kept = scorer.space.geometry, k + max(_SPARE, k // 8)
    if not scorer.points or scorer.device.type != "cpu" or kept >= len(snapshot):
        return None
    parameters = geometry.chart_parameters(scorer.chart_parameters)
    if (products := geometry.products(parameters)) is None:
        return None
    chart = Chart("products", "inner_product", parameters, products.documents, products.queries)
    if (lifted := scorer.lift(chart)) is None:
        return None
    count, width = len(snapshot), lifted.shape[1] + 1
    key = ("features", chart.name, tuple(chart.parameters.items()))
    with torch.inference_mode():
        features = snapshot.beside(key, lambda: _features(snapshot, chart, width), size=4 * width * count)
        if features is None or not len(features) or not (_norms(lifted) <= _LONGEST).all():
            return None
        # The bound of a product's rounding is an additional feature. Any order of summing f products of rounded numbers
        # errs by less than this times both norms (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1),
        # and features have errors of their own, which grow with the radius.
        unit = (width + _OPERATIONS) * 2.0**-24 + 2 * ROUNDING[torch.get_float32_matmul_precision()]
        queries = torch.cat([lifted, unit * _norms(lifted)[:, None]], dim=1)
        least, rows = _highest(queries, features, kept)
        best, found = best_positions(exact(snapshot, scorer, rows), rows, k)
        reached = best[:, -1].double()
        needed = products.of(reached - _EXACT * (1 + reached.abs()))
        # Unchosen documents have at most the bound of the last chosen one.
        unsure = (~(least.double() < needed)).nonzero()[:, 0]
    best, found = best.clone(), found.clone()
    if len(unsure):
        best[unsure], found[unsure] = otherwise(scorer[unsure])
    return best, found


def _features(snapshot: Snapshot, chart: Chart, width: int) -> Tensor:
    """Return the features of all documents, each followed by its norm; none at all if a document is too far out."""
    features = torch.empty(len(snapshot), width)
    start = 0
    for chunk in snapshot.chunks(_LIFTED):
        lifted = chart.lift_documents(VectorPoints(vectors_of(chunk).double()))
        norms = _norms(lifted)
        if not (norms <= _LONGEST).all():
            return features[:0].clone()
        part = features[start : start + len(lifted)]
        part[:, :-1], part[:, -1] = lifted, norms
        start += len(lifted)
    return features


def _norms(features: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(features, dim=1)
    return norms


def _highest(queries: Tensor, features: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Return each query's `kept` highest bounds: the lowest of them `(Q,)`, and their rows `(Q, kept)`."""
    least, rows = torch.empty(len(queries)), torch.empty(len(queries), kept, dtype=torch.int64)
    groups = [slice(start, start + _QUERIES) for start in range(0, len(queries), _QUERIES)]
    pending = iter(groups)

    def work() -> None:
        for group in pending:
            own = queries[group]
            bounds, places = torch.empty(len(own), 0), torch.empty(len(own), 0, dtype=torch.int64)
            size = max(kept, _BOUNDS // len(own))
            for start in range(0, len(features), size):
                part = features[start : start + size]
                top, columns = best_columns(own @ part.T if len(own) > 1 else (part @ own[0])[None], kept)
                joined, both = torch.cat([bounds, top], dim=1), torch.cat([places, columns + start], dim=1)
                bounds, order = best_columns(joined, kept)
                places = both.gather(1, order)
            least[group], rows[group] = bounds[:, -1], places

    run_on_cores(work, at_most=len(groups))
    return least, rows


@dataclass(frozen=True)
class PreciseQueries:
    """Linear queries of a space with known rounding of float32 scores, whose near ties float64 resolves.

    Attributes:
        space: A space whose `rounding` is not None.
        vectors: `(Q, w)` float32.
    """

    space: Space
    vectors: Tensor

    @classmethod
    def of(cls, scorer: Scorer) -> Self | None:
        """Return a scorer's queries; None if it is not linear, or the rounding of its space is unknown."""
        vectors = None if scorer.space.rounding is None else scorer.linear()
        return None if vectors is None else cls(scorer.space, vectors.detach().float())

    def __getitem__(self, queries: slice | Tensor) -> PreciseQueries:
        return PreciseQueries(self.space, self.vectors[queries])

    def scale(self, longest: float) -> Tensor | None:
        """Bound the terms that scores are summed from.

        Args:
            longest: `longest_norm` of the documents.

        Returns:
            `(Q, 1)` float64 bounds of their size; None if they are as large as the scores themselves.
        """
        if self.space.rounding == "score":
            return None
        norms = torch.linalg.vector_norm(self.vectors.double(), dim=1, keepdim=True)
        return norms * longest if self.space.rounding == "norms" else torch.ones_like(norms)

    def highest(self, scores: Tensor, scale: Tensor | None) -> Tensor:
        """Return upper bounds of the true scores from `(Q, n)` float32 ones; monotonic in these."""
        # The error of summing d products of rounded numbers, in any order, is below this (Higham, Accuracy and
        # Stability of Numerical Algorithms, section 3.1); for cosines three times, as both norms are such sums.
        unit = (3 * self.space.dimension + _STEPS) * 2.0**-24 + 2 * ROUNDING[torch.get_float32_matmul_precision()]
        wide = scores.double()
        return wide + (unit * (wide.abs() if scale is None else scale)).nan_to_num(torch.inf, torch.inf)

    def score(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Score each query's documents, given by rows, in float64.

        Args:
            vectors: `(N, w)` documents.
            rows: `(Q, n)`, from 0.

        Returns:
            `(Q, n)` float64.
        """
        scores = torch.empty(rows.shape, dtype=torch.float64, device=vectors.device)
        width = max(1, min(rows.shape[1], _PRECISE_BYTES // (8 * vectors.shape[1])))
        height = max(1, _PRECISE_BYTES // (8 * width * vectors.shape[1]))
        for start in range(0, len(rows), height):
            queries = self.vectors[start : start + height].double()
            for column in range(0, rows.shape[1], width):
                part = rows[start : start + height, column : column + width]
                own = vectors.index_select(0, part.flatten()).double()
                scores[start : start + height, column : column + width] = self.space.score_own_precisely(
                    queries, own.view(*part.shape, -1)
                )
        return scores


def longest_norm(space: Space, documents: Tensor) -> float:
    """Return an upper bound of the norms of `(N, w)` documents; 0 if rounding does not depend on them."""
    if space.rounding != "norms" or not len(documents):
        return 0.0
    return float(torch.linalg.vector_norm(documents.float(), dim=1).max()) * (1 + 2.0**-12)


def uneven_norms(space: Space, documents: Tensor) -> float:
    """Return the largest difference of norms of `(N, w)` documents from 1; infinity if the space does not scale them.

    Cosines differ from products with documents as they are stored by no more than that.
    """
    if not (space.unit_norm and space.plain_product) or not len(documents):
        return math.inf
    parts = torch.split(documents, max(1, _PRECISE_BYTES // (8 * documents.shape[1])))
    return max(float((torch.linalg.vector_norm(part.double(), dim=1) - 1).abs().max()) for part in parts)


def exact_first(scores: Tensor, rows: Tensor, scale: Tensor | None, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Sort rows by float64 scores; those that differ by rounding alone are made equal, and equal ones rank by row.

    Args:
        scores: `(Q, n)`.
        rows: `(Q, n)`, from 0.
        scale: As returned by `PreciseQueries.scale`.
        k: How many to keep; None for all.

    Returns:
        Scores and rows `(Q, min(k, n))`.
    """
    falling, order = scores.sort(dim=1, descending=True)
    together = _together(falling, scale)
    if together.any():
        return best_positions(_merged(falling, together), rows.gather(1, order), k)
    return falling[:, :k], rows.gather(1, order[:, :k])


def equalised(scores: Tensor, scale: Tensor | None) -> Tensor:
    """Make float64 scores equal if they differ by rounding alone.

    Args:
        scores: `(Q, n)`.
        scale: As returned by `PreciseQueries.scale`.

    Returns:
        `(Q, n)`: such neighbours all get the highest one's score.
    """
    falling, order = scores.sort(dim=1, descending=True)
    together = _together(falling, scale)
    return torch.empty_like(scores).scatter_(1, order, _merged(falling, together)) if together.any() else scores


def _together(falling: Tensor, scale: Tensor | None) -> Tensor:
    """Return `(Q, n - 1)`: which scores equal the one before them."""
    size = falling[:, 1:].abs() if scale is None else scale
    return (falling[:, :-1] - falling[:, 1:] <= _SAME * size) | (falling[:, :-1] == falling[:, 1:])


def _merged(falling: Tensor, together: Tensor) -> Tensor:
    places = torch.arange(falling.shape[1], device=falling.device).expand_as(falling).clone()
    places[:, 1:].masked_fill_(together, 0)
    return falling.gather(1, places.cummax(dim=1).values)
