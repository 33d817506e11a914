"""Rows of a hyperbolic route, read back: what both hyperbolic families make of their last module's output.

A row of the document side is a point, time first; in one of the query side the time has the other sign, so that plain
inner products of the two rank as distances do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperseek.errors import ModelError
from hyperseek.models.families.lorentz.config import Distance
from hyperseek.nn.tangent_projection import Curvature
from hyperseek.scoring import LinearScorer, Points, Space, VectorPoints


def refuse_truncation(model: nn.Module) -> None:
    """Raise ModelError for a sentence-transformers model that would cut points off their hyperboloid."""
    dimension = getattr(model, "truncate_dim", None)
    if dimension is not None:
        raise ModelError(
            f"truncate_dim={dimension} would cut points off their hyperboloid; load the whole model, and for fewer "
            f"dimensions call `shorten` of its last module, or set model.lorentz.output_dimension"
        )


def document_points(rows: Tensor, space: Space, curvature: Curvature) -> Points:
    """Return the points of document rows.

    Args:
        rows: `(N, d + 1)`.
        space: The geometry, with the curvature as it is now.
        curvature: The same, to be differentiated.

    Returns:
        `N` points; differentiable, in the curvature too.
    """
    return VectorPoints(space.canonical(rows / _one(curvature)))


def query_scorer(rows: Tensor, space: Space, curvature: Curvature, distance: Distance) -> LinearScorer:
    """Return the scorer of query rows.

    Args:
        rows: `(Q, d + 1)`.
        space: The geometry, with the curvature as it is now.
        curvature: The same, to be differentiated.
        distance: What points are compared by.

    Returns:
        The scorer of `Q` queries; differentiable, in the curvature too.
    """
    one = _one(curvature)
    # Distances grow with R and the other two with R²; what polar points alone give is all that is left.
    factor = one if distance == "geodesic" else one.square()
    queries = space.canonical(flip_time(rows) / one)
    return LinearScorer(space, queries, factor=factor if factor.requires_grad else None)


def flip_time(points: Tensor) -> Tensor:
    """Return points with the sign of the time coordinate, the first one, turned."""
    return torch.cat([-points[..., :1], points[..., 1:]], dim=-1)


def _one(curvature: Curvature) -> Tensor:
    """Return 1, with the gradient of R / R's present value: a space is plain numbers, which have none."""
    radius: Tensor = curvature().sqrt()
    return radius / radius.detach()
