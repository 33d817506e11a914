"""Distances and radii of stored points: what each kind of space means by them.

Shapes: `n` and `m` points, `w` numbers of a stored point.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from hyperseek import geometry
from hyperseek._errors import InputError
from hyperseek.scoring import Points, Space

HYPERBOLIC = ("lorentz", "poincare")
_METRICS = {
    "lorentz": "geodesic distance",
    "poincare": "geodesic distance",
    "euclidean": "Euclidean distance",
    "dot": "Euclidean distance",
    "cosine": "angle in radians",
}


def metric_of(space: Space) -> str:
    """Name the distance that points of a space are compared by.

    Args:
        space: Any space whose points are one vector each.

    Returns:
        The name, with the unit where it has one.

    Raises:
        InputError: The points are sets of tokens, between which there is no distance.
    """
    if space.kind not in _METRICS:
        raise InputError(
            f"a {space.kind!r} space has no distance between documents, so its shape cannot be measured; "
            f"give an index of one vector a document: {', '.join(sorted(_METRICS))}"
        )
    return _METRICS[space.kind]


def distances(space: Space, first: Tensor, second: Tensor) -> Tensor:
    """Return all distances, of which each is exact for near points, too.

    A `dot` space has no distance of its own; that of its vectors is taken. A `cosine` space has the angle.

    Args:
        space: Where the points lie.
        first: `(n, w)` stored points.
        second: `(m, w)` stored points.

    Returns:
        `(n, m)`, at least 0, in float64 if the points are.

    Raises:
        InputError: The points are sets of tokens.
    """
    metric_of(space)
    if space.kind in HYPERBOLIC:
        return -replace(space, similarity="geodesic").score(first, Points(second))
    if space.kind == "cosine":
        chord = -geometry.negative_distance(geometry.unit_vectors(first), geometry.unit_vectors(second))
        return 2 * torch.asin((chord / 2).clamp(max=1))
    return -geometry.negative_distance(first, second)


def radii(space: Space, vectors: Tensor) -> Tensor:
    """Return the distances from the origin; in flat spaces the norms.

    Args:
        space: Where the points lie.
        vectors: `(n, w)` stored points.

    Returns:
        `(n,)`, at least 0.

    Raises:
        InputError: All points of the space are as far from its origin, or it has none.
    """
    metric_of(space)
    if space.kind == "cosine":
        raise InputError("all vectors of a cosine space have norm 1, so that their radii say nothing")
    if space.kind in HYPERBOLIC:
        rho = geometry.split_polar(vectors)[1][..., 0]
        return rho * math.sqrt(space.radius_squared)
    norms: Tensor = torch.linalg.vector_norm(vectors.double(), dim=-1)
    return norms
