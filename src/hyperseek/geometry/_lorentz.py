"""The hyperboloid: lift, products and distances, all differentiable.

Convention of all `lorentz_*` functions: the time coordinate comes first; `radius_squared` is R² of <x, x> = -R², a
number or a 0-dim tensor, which may be trained; the sectional curvature is -1/R². Everything is computed in float32, or
in float64 where points are, also under autocast. Distances and maps read the space part of points of the hyperboloid
and recompute the time that belongs to it: what an optimiser or a lower precision did to the constraint does not matter.

Shapes: `n` and `m` points, `d` dimensions; leading axes broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hyperseek._errors import InputError
from hyperseek.geometry._chord import half_chord_matrix
from hyperseek.geometry._precision import pairwise, root, vectorwise
from hyperseek.geometry._radial import asinh, exponents, finite, norm, saturated, times_power


@vectorwise
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


@vectorwise
def lorentz_project(points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Put points back onto the hyperboloid: the space part stays, the time is recomputed.

    Args:
        points: `(..., d + 1)`.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points of the hyperboloid.
    """
    return lorentz_from_space(space_part(points), radius_squared)


@vectorwise
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
    # Neither scale nor its gradient matters, but squares of long vectors would overflow. Too short ones to have a
    # square have the gradient 0, as `directions` have.
    exponent = exponents(vectors)
    short = exponent < math.log2(torch.finfo(vectors.dtype).tiny) / 2
    vectors = torch.ldexp(torch.where(short, vectors.detach(), vectors), -exponent)
    time, space = vectors[..., :1], space_part(vectors)
    length = norm(space)
    total = time.abs() + length
    # Lightlike vectors have no length to be divided by: theirs is taken as far as the rounding of a sum reaches.
    gap = (time.abs() - length).abs().clamp_min(torch.finfo(vectors.dtype).eps * total.detach())
    squared = gap * total
    empty = total == 0
    scale = root(radius_squared) / torch.where(empty, 1, squared).sqrt()
    sign = torch.where(time < 0, -1, 1)
    return lorentz_from_space(torch.where(empty, 0, scale * sign) * space, radius_squared)


@vectorwise
def lorentz_inner(x: Tensor, y: Tensor) -> Tensor:
    """Return the Lorentz product <x, y> = -x₀ y₀ + x₁ y₁ + … of vectors of the ambient space.

    Far from the origin it cancels almost all digits of points: use distances where near ties matter. What exceeds the
    dtype's range is its largest number.

    Args:
        x: `(..., d + 1)`.
        y: `(..., d + 1)`.

    Returns:
        `(...,)`, any real number; at most -R² for points of one hyperboloid.
    """
    return _finite_product(_inner, x, y, lambda first, second: first + second)[..., 0]


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x[..., 1:] * y[..., 1:]).sum(-1, keepdim=True) - x[..., :1] * y[..., :1]


@pairwise
def lorentz_inner_matrix(x: Tensor, y: Tensor) -> Tensor:
    """Return the Lorentz products of all pairs, as one matrix product; what exceeds the dtype's range is its end.

    Args:
        x: `(..., n, d + 1)`.
        y: `(..., m, d + 1)`.

    Returns:
        `(..., n, m)`.
    """
    return _finite_product(_inner_matrix, x, y, lambda first, second: first + second.mT)


def _inner_matrix(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([-x[..., :1], x[..., 1:]], dim=-1) @ y.mT


def _finite_product(
    product: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, joined: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return products; infinite ones, and differences of infinities, again from vectors over powers of two."""

    def again() -> Tensor:
        first, second = exponents(x), exponents(y)
        return times_power(product(torch.ldexp(x, -first), torch.ldexp(y, -second)), joined(first, second))

    return finite(product(x, y), again)


@vectorwise
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


@pairwise
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
    return 2 * radius * asinh(half_chord_matrix(space_part(x) / radius, space_part(y) / radius))


@pairwise
def lorentz_squared_distance_matrix(x: Tensor, y: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Return the squared Lorentz distances |x - y|² = -2R² - 2<x, y> of all pairs, not cancelling; not geodesic ones.

    They end at the dtype's largest number, which float32 reaches for points that are 88 R apart.

    Args:
        x: `(..., n, d + 1)` points.
        y: `(..., m, d + 1)` points.
        radius_squared: R², positive.

    Returns:
        `(..., n, m)`, at least 0.
    """
    radius = root(radius_squared)
    return saturated(4 * (radius * half_chord_matrix(space_part(x) / radius, space_part(y) / radius)).square())


def space_part(points: Tensor) -> Tensor:
    """Return the space part `(..., d)` of points `(..., d + 1)`; InputError where there is only a time."""
    if points.shape[-1] < 2:
        raise InputError(f"points have a time and at least 1 space coordinate; the shape {tuple(points.shape)} has not")
    return points[..., 1:]
