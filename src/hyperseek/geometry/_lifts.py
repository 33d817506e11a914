"""Lifts: other searches written as an inner product or an L2 search, which any vector engine solves.

Shapes: `Q` queries, `N` documents, `d` dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperseek.geometry._euclidean import unit_vectors
from hyperseek.geometry._precision import vectorwise
from hyperseek.geometry._radial import saturated


@vectorwise
def balanced_documents(vectors: Tensor, bound: float) -> Tensor:
    """Lift documents so that the nearest in L2 is the one with the largest inner product.

    `x` becomes `(x, sqrt(M² - |x|²)) / M`, of norm 1 (Neyshabur and Srebro, arXiv 1410.5518). Graph engines, which
    chase norms under a bare inner product, need this.

    Args:
        vectors: `(N, d)`.
        bound: M, at least the norm of every document; a longer one would be lifted wrongly.

    Returns:
        `(N, d + 1)`.
    """
    # In float64: M² - |x|² of the longest documents is a small difference of large numbers.
    scaled = vectors.double() / bound
    rest = (1 - scaled.square().sum(dim=-1, keepdim=True)).clamp_min(0).sqrt()
    return torch.cat([scaled, rest], dim=-1).to(vectors.dtype)


@vectorwise
def balanced_queries(vectors: Tensor) -> Tensor:
    """Lift queries for `balanced_documents`: norm 1, and a zero.

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
        `(N, d + 1)`; a square beyond the dtype's range is the range's end.
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
