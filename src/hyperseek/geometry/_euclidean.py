"""Similarities of Euclidean vectors. Convention: higher is better; results are float32 (or float64).

Shapes: `Q` queries, `N` documents, `d` dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below this norm a float32 vector has no direction worth keeping; a zero vector stays zero, never NaN.
_SMALLEST_NORM = 1e-12


def inner_product(queries: Tensor, documents: Tensor) -> Tensor:
    """Return all inner products.

    Args:
        queries: `(Q, d)`, any floating dtype.
        documents: `(N, d)`, any floating dtype.

    Returns:
        `(Q, N)`, any real value.
    """
    return _wide(queries) @ _wide(documents).T


def unit_vectors(vectors: Tensor) -> Tensor:
    """Scale vectors to norm 1; a zero vector stays zero.

    Args:
        vectors: `(..., d)`, any floating dtype.

    Returns:
        `(..., d)` of norm 1 or 0.
    """
    wide = _wide(vectors)
    norms: Tensor = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return wide / norms.clamp_min(_SMALLEST_NORM)


def cosine_similarity(queries: Tensor, documents: Tensor) -> Tensor:
    """Return all cosines.

    Args:
        queries: `(Q, d)`, any floating dtype.
        documents: `(N, d)`, any floating dtype.

    Returns:
        `(Q, N)` in [-1, 1]; 0 where a vector is zero.
    """
    return unit_vectors(queries) @ unit_vectors(documents).T


def negative_distance(queries: Tensor, documents: Tensor) -> Tensor:
    """Return all Euclidean distances with a minus sign.

    Computed from differences, not from norms and products: near ties survive float32.

    Args:
        queries: `(Q, d)`, any floating dtype.
        documents: `(N, d)`, any floating dtype.

    Returns:
        `(Q, N)`, at most 0.
    """
    return -torch.cdist(_wide(queries), _wide(documents), compute_mode="donot_use_mm_for_euclid_dist")


def _wide(vectors: Tensor) -> Tensor:
    return vectors if vectors.dtype == torch.float64 else vectors.float()
