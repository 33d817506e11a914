"""The hyperboloid: lift, products and distances, all differentiable.

Convention of all `lorentz_*` functions: the time coordinate comes first; `radius_squared` is R² of <x, x> = -R², a
number or a 0-dim tensor, which may be trained; the sectional curvature is -1/R². Everything is computed in float32, or
in float64 where points are, also under autocast. Distances and maps read the space part of points of the hyperboloid
and recompute the time that belongs to it: what an optimiser or a lower precision did to the constraint does not matter.

Shapes: `n` and `m` points, `d` dimensions; leading axes broadcast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperseek.geometry._chord import half_chord_matrix
from hyperseek.geometry._precision import full_precision, root
from hyperseek.geometry._radial import norm


@full_precision
def lorentz_from_space(space: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Put the time coordinate that belongs to them before space coordinates.

    This is the lift of hyperbolic networks, not the exponential map: it keeps coordinates, not lengths.

    Args:
        space: `(..., d)`.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points of the hyperboloid.
    """
    length = norm(space)
    time = torch.hypot(length, torch.ones_like(length) * root(radius_squared))
    return torch.cat([time, space], dim=-1)


def lorentz_project(points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Put points back onto the hyperboloid: the space part stays, the time is recomputed.

    Args:
        points: `(..., d + 1)`.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points of the hyperboloid.
    """
    return lorentz_from_space(points[..., 1:], radius_squared)


@full_precision
def lorentz_normalise(vectors: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Scale vectors of the ambient space onto the hyperboloid: v R / sqrt(|<v, v>|).

    A vector holds the distance of its point from the origin in the last digits of its time coordinate, and in float32
    not beyond 8 R, where results end. `lorentz_centroid` sums points without that loss.

    Args:
        vectors: `(..., d + 1)`, such as sums of points. A vector of zeros becomes the origin.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points of the hyperboloid.
    """
    time, space = vectors[..., :1], vectors[..., 1:]
    length = norm(space)
    total = time.abs() + length
    # Lightlike vectors have no length to be divided by: theirs is taken as far as the rounding of a sum reaches.
    gap = (time.abs() - length).abs().clamp_min(torch.finfo(vectors.dtype).eps * total.detach())
    squared = gap * total
    empty = total < _NOTHING
    scale = root(radius_squared) / torch.where(empty, 1, squared).sqrt()
    sign = torch.where(time < 0, -1, 1)
    return lorentz_from_space(torch.where(empty, 0, scale * sign) * space, radius_squared)


@full_precision
def lorentz_inner(x: Tensor, y: Tensor) -> Tensor:
    """Return the Lorentz product <x, y> = -x₀ y₀ + x₁ y₁ + … of vectors of the ambient space.

    Far from the origin it cancels almost all digits of points: use distances where near ties matter.

    Args:
        x: `(..., d + 1)`.
        y: `(..., d + 1)`.

    Returns:
        `(...,)`, any real number; at most -R² for points of one hyperboloid.
    """
    return (x[..., 1:] * y[..., 1:]).sum(-1) - x[..., 0] * y[..., 0]


@full_precision
def lorentz_inner_matrix(x: Tensor, y: Tensor) -> Tensor:
    """Return the Lorentz products of all pairs, as one matrix product.

    Args:
        x: `(..., n, d + 1)`.
        y: `(..., m, d + 1)`.

    Returns:
        `(..., n, m)`.
    """
    return torch.cat([-x[..., :1], x[..., 1:]], dim=-1) @ y.mT


@full_precision
def lorentz_distance(x: Tensor, y: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Return geodesic distances, 2 R asinh(|x - y| / 2R): exact for near points, gradient 0 where both are one.

    Args:
        x: `(..., d + 1)` points.
        y: `(..., d + 1)` points.
        radius_squared: R², positive.

    Returns:
        `(...,)`, at least 0.
    """
    return lorentz_distance_matrix(x[..., None, :], y[..., None, :], radius_squared)[..., 0, 0]


@full_precision
def lorentz_distance_matrix(x: Tensor, y: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Return the geodesic distances of all pairs.

    Args:
        x: `(..., n, d + 1)` points.
        y: `(..., m, d + 1)` points.
        radius_squared: R², positive.

    Returns:
        `(..., n, m)`, at least 0.
    """
    radius = root(radius_squared)
    return 2 * radius * torch.asinh(half_chord_matrix(x[..., 1:] / radius, y[..., 1:] / radius))


@full_precision
def lorentz_squared_distance_matrix(x: Tensor, y: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Return the squared Lorentz distances |x - y|² = -2R² - 2<x, y> of all pairs, not cancelling; not geodesic ones.

    Args:
        x: `(..., n, d + 1)` points.
        y: `(..., m, d + 1)` points.
        radius_squared: R², positive.

    Returns:
        `(..., n, m)`, at least 0.
    """
    radius = root(radius_squared)
    return 4 * (radius * half_chord_matrix(x[..., 1:] / radius, y[..., 1:] / radius)).square()


_NOTHING = 1e-12  # the sum of absolute coordinates below which a vector is one of zeros
