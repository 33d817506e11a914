"""Equal documents get equal scores, and near ties in flat spaces are told apart in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hyperseek.scoring import Points, Scorer, Space, TokenPoints, VectorPoints
from hyperseek.scoring.best import best_first

# Points of candidates that are scored at a time: they stay in a core's cache.
_GATHERED_BYTES = 1 << 20
# Operations that a coordinate may go through beside its sum: scaling to norm 1, a difference, a root.
_SPARE = 32
# Relative differences of float64 scores up to this come from the order of their sums.
_SAME = 2.0**-46
# What a product may round its factors to, by torch's setting: float32, TF32, bfloat16.
_ROUNDING = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}


@dataclass(frozen=True)
class FlatQueries:
    """Queries of a flat space.

    Attributes:
        space: Of kind `"dot"`, `"cosine"` or `"euclidean"`.
        vectors: `(Q, w)` float32.
    """

    space: Space
    vectors: Tensor

    @classmethod
    def of(cls, scorer: Scorer) -> Self | None:
        """Return a scorer's queries; None where it is not linear or its space not flat."""
        vectors = scorer.linear() if scorer.space.kind in ("dot", "cosine", "euclidean") else None
        return None if vectors is None else cls(scorer.space, vectors.detach().float())

    def __getitem__(self, queries: slice | Tensor) -> FlatQueries:
        return FlatQueries(self.space, self.vectors[queries])

    def scale(self, longest: float) -> Tensor | None:
        """Measure the parts that scores are summed from.

        Args:
            longest: Of the documents, as `longest_norm` returns it.

        Returns:
            `(Q, 1)` float64: how large they may be; None for as large as the scores themselves.
        """
        if self.space.kind == "euclidean":
            return None
        norms = torch.linalg.vector_norm(self.vectors.double(), dim=1, keepdim=True)
        return norms * longest if self.space.kind == "dot" else torch.ones_like(norms)

    def highest(self, scores: Tensor, scale: Tensor | None) -> Tensor:
        """Return the most that the true scores may be of `(Q, n)` float32 ones; it rises with them."""
        # Any order of summing d products of rounded numbers errs by less than this (Higham, Accuracy and Stability of
        # Numerical Algorithms, section 3.1), for cosines three times: both norms are such sums.
        unit = (3 * self.space.dimension + _SPARE) * 2.0**-24 + 2 * _ROUNDING[torch.get_float32_matmul_precision()]
        wide = scores.double()
        return wide + (unit * (wide.abs() if scale is None else scale)).nan_to_num(torch.inf, torch.inf)

    def score(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Score rows of documents, each by its query, in float64.

        Args:
            vectors: `(N, w)` documents.
            rows: `(Q, n)`, from 0.

        Returns:
            `(Q, n)` float64.
        """
        scores = torch.empty(rows.shape, dtype=torch.float64, device=vectors.device)
        width = max(1, min(rows.shape[1], _GATHERED_BYTES // (8 * vectors.shape[1])))
        height = max(1, _GATHERED_BYTES // (8 * width * vectors.shape[1]))
        for start in range(0, len(rows), height):
            queries = self.vectors[start : start + height].double()
            for column in range(0, rows.shape[1], width):
                part = rows[start : start + height, column : column + width]
                own = vectors.index_select(0, part.flatten()).double()
                scores[start : start + height, column : column + width] = self._compare(queries, own, part.shape)
        return scores

    def _compare(self, queries: Tensor, own: Tensor, shape: torch.Size) -> Tensor:
        if self.space.kind == "euclidean":
            distances: Tensor = torch.linalg.vector_norm(own.view(*shape, -1) - queries[:, None], dim=-1)
            return -distances
        chart = self.space.chart("inner_product")
        documents, lifted = chart.lift_documents(VectorPoints(own)), chart.lift_queries(queries)
        if len(lifted) == 1:  # a batch of one product is slower than the product
            return (documents @ lifted[0])[None]
        return (documents.view(*shape, -1) @ lifted[..., None])[..., 0]


def longest_norm(space: Space, documents: Tensor) -> float:
    """Return an upper bound of the norms of `(N, w)` documents; 0 for none, and where scores do not grow with norms."""
    if space.kind != "dot" or not len(documents):
        return 0.0
    return float(torch.linalg.vector_norm(documents.float(), dim=1).max()) * (1 + 2.0**-12)


def without_rounding(scores: Tensor, scale: Tensor | None) -> Tensor:
    """Make float64 scores equal that differ by rounding alone.

    Args:
        scores: `(Q, n)`.
        scale: As `FlatQueries.scale` returns it.

    Returns:
        `(Q, n)`: of neighbours that are so close all have the highest's score.
    """
    falling, order = scores.sort(dim=1, descending=True)
    together = _together(falling, scale)
    return torch.empty_like(scores).scatter_(1, order, _merged(falling, together)) if together.any() else scores


def exact_first(scores: Tensor, rows: Tensor, scale: Tensor | None, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Sort rows by float64 scores; those that differ by rounding alone are equal, and equal ones rank by row.

    Args:
        scores: `(Q, n)`.
        rows: `(Q, n)`, from 0.
        scale: As `FlatQueries.scale` returns it.
        k: Keep only so many; None for all.

    Returns:
        Scores and rows `(Q, min(k, n))`.
    """
    falling, order = scores.sort(dim=1, descending=True)
    together = _together(falling, scale)
    if together.any():
        return best_first(_merged(falling, together), rows.gather(1, order), k)
    return falling[:, :k], rows.gather(1, order[:, :k])


def _together(falling: Tensor, scale: Tensor | None) -> Tensor:
    """Return `(Q, n - 1)`: which scores equal the one before them."""
    size = falling[:, 1:].abs() if scale is None else scale
    return (falling[:, :-1] - falling[:, 1:] <= _SAME * size) | (falling[:, :-1] == falling[:, 1:])


def _merged(falling: Tensor, together: Tensor) -> Tensor:
    places = torch.arange(falling.shape[1], device=falling.device).expand_as(falling).clone()
    places[:, 1:].masked_fill_(together, 0)
    return falling.gather(1, places.cummax(dim=1).values)


# Numbers that are marked at a time: they stay in a core's cache.
_MARKED = 1 << 16


def marks_of(points: Points) -> Tensor:
    """Mark documents by their stored numbers.

    Args:
        points: `N` documents.

    Returns:
        `(N,)` int64 on their device: the same for equal documents, and not for others but by a chance of 2⁻⁶⁴.
    """
    if not isinstance(points, TokenPoints):
        return _marks(points.rows)
    tokens = _marks(points.rows)
    lengths = points.lengths
    owner = torch.repeat_interleave(lengths)
    place = torch.arange(len(tokens), device=tokens.device) - points.offsets[owner]
    # The place of a token counts, and the number of tokens.
    return (lengths * _odd(1, lengths.device)).index_add(0, owner, tokens * (2 * place + 1))


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
