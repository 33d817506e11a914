"""Similarities of Euclidean vectors, and lifts that reduce one kind of search to another (inner product and L2).

Higher is better; results are float32 (or float64). Any vector engine can search lifted vectors.

Shapes: `Q` queries, `N` documents, `d` dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperseek.geometry.numerics import (
    directions,
    exponents,
    finite,
    norm,
    pairwise,
    saturated,
    times_power,
    vectorwise,
)


@pairwise
def inner_product(queries: Tensor, documents: Tensor) -> Tensor:
    """Return all inner products.

    Args:
        queries: `(Q, d)`, any floating dtype.
        documents: `(N, d)`, any floating dtype.

    Returns:
        `(Q, N)`, any real value, clamped to the dtype's range.
    """
    products = queries @ documents.T

    def again() -> Tensor:
        first, second = exponents(queries), exponents(documents)
        scaled = torch.ldexp(queries, -first) @ torch.ldexp(documents, -second).T
        return times_power(scaled, first + second.T)

    return finite(products, again)


@vectorwise
def unit_vectors(vectors: Tensor) -> Tensor:
    """Scale vectors of any length to norm 1; only a zero vector stays zero.

    Args:
        vectors: `(..., d)`, any floating dtype.

    Returns:
        `(..., d)` of norm 1 or 0.
    """
    return directions(vectors)[0]


@pairwise
def cosine_similarity(queries: Tensor, documents: Tensor) -> Tensor:
    """Return all cosines.

    Args:
        queries: `(Q, d)`, any floating dtype.
        documents: `(N, d)`, any floating dtype.

    Returns:
        `(Q, N)` in [-1, 1], up to rounding; 0 if a vector is zero.
    """
    return unit_vectors(queries) @ unit_vectors(documents).T


@pairwise
def negative_distance(queries: Tensor, documents: Tensor) -> Tensor:
    """Return all negated Euclidean distances.

    Computed from differences, not from norms and products: near ties survive float32.

    Args:
        queries: `(Q, d)`, any floating dtype.
        documents: `(N, d)`, any floating dtype.

    Returns:
        `(Q, N)`, at most 0.
    """
    apart = torch.cdist(queries, documents, compute_mode="donot_use_mm_for_euclid_dist")
    # Squares overflow from 1e19 on, and lose digits of distances below this one.
    info = torch.finfo(apart.dtype)
    unsure = (apart < (info.tiny / info.eps) ** 0.5) | ~apart.isfinite()
    return -_mended(apart, unsure, queries, documents) if unsure.any() else -apart


# Numbers in the pairs of vectors that are recomputed at a time.
_NUMBERS = 1 << 22


def _mended(distances: Tensor, unsure: Tensor, queries: Tensor, documents: Tensor) -> Tensor:
    """Recompute some of the `(Q, N)` distances, by a slower method."""
    rows, columns = unsure.nonzero(as_tuple=True)
    step = max(1, _NUMBERS // queries.shape[-1])
    pieces = zip(torch.split(rows, step), torch.split(columns, step), strict=True)
    again = [saturated(norm(queries[i] - documents[j])[..., 0]) for i, j in pieces]
    return distances.index_put((rows, columns), torch.cat(again))


@vectorwise
def balanced_documents(vectors: Tensor, bound: float) -> Tensor:
    """Lift documents so that the nearest in L2 is the one with the largest inner product.

    `x` becomes `(x, sqrt(M² - |x|²)) / M`, of norm 1 (Neyshabur and Srebro, arXiv 1410.5518). Graph engines need this,
    since under a plain inner product they drift to the longest vectors.

    Args:
        vectors: `(N, d)`.
        bound: M, at least the norm of every document; a longer document would be lifted incorrectly.

    Returns:
        `(N, d + 1)`.
    """
    # In float64: M² - |x|² of the longest documents is a small difference of large numbers.
    scaled = vectors.double() / bound
    rest = (1 - scaled.square().sum(dim=-1, keepdim=True)).clamp_min(0).sqrt()
    return torch.cat([scaled, rest], dim=-1).to(vectors.dtype)


@vectorwise
def balanced_queries(vectors: Tensor) -> Tensor:
    """Lift queries for `balanced_documents`: normalise them and append a zero.

    Args:
        vectors: `(Q, d)`.

    Returns:
        `(Q, d + 1)`.
    """
    scaled = unit_vectors(vectors)
    return torch.cat([scaled, torch.zeros_like(scaled[..., :1])], dim=-1)


@vectorwise
def paraboloid_documents(vectors: Tensor) -> Tensor:
    """Lift documents so that the largest inner product is the nearest in L2: `(x, -|x|² / 2)`.

    Args:
        vectors: `(N, d)`.

    Returns:
        `(N, d + 1)`; squares are clamped to the dtype's range.
    """
    return torch.cat([vectors, saturated(-vectors.square().sum(dim=-1, keepdim=True) / 2)], dim=-1)


@vectorwise
def paraboloid_queries(vectors: Tensor) -> Tensor:
    """Lift queries for `paraboloid_documents`: `(q, 1)`.

    Args:
        vectors: `(Q, d)`.

    Returns:
        `(Q, d + 1)`.
    """
    return torch.cat([vectors, torch.ones_like(vectors[..., :1])], dim=-1)
