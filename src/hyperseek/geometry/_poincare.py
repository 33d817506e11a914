"""The Poincaré ball and the Klein ball: their maps from the hyperboloid and back, addition and distances.

The Poincaré ball has the radius R = 1 / sqrt(c), where `c` is a number or a 0-dim tensor; the Klein ball has radius 1.
The conformal factor is 2 at the origin, so near it |x| is half the distance, and `poincare_expmap0(u)` is the same
point as `lorentz_expmap0(2 u)`. Precision and autocast are handled as for the hyperboloid.

Points far out crowd near the boundary. Distances are as exact as the coordinates: in float32 they keep four digits up
to 5 R, and distances from the origin are distinguishable up to about 17 R in the Poincaré ball and 9 R in the Klein
ball, where points on or beyond the boundary are placed. Train on the hyperboloid if points go far.

Shapes: `n` and `m` points, `d` dimensions; leading axes broadcast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperseek.geometry._lorentz import lorentz_from_space, lorentz_project
from hyperseek.geometry.numerics import (
    asinh,
    atanh_ratio,
    below_one,
    distances,
    norm,
    pairwise,
    root,
    tanh_ratio,
    vectorwise,
)


@vectorwise
def poincare_project(points: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Move points on or outside the boundary back into the ball, as far out as the dtype allows.

    Args:
        points: `(..., d)`.
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., d)` of norm below 1 / sqrt(c).
    """
    longest = _edge(points) / root(c)
    return _shortened(points, longest)


@vectorwise
def poincare_expmap0(tangent: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Exponential map at the origin: tanh(sqrt(c) |u|) u / (sqrt(c) |u|).

    Args:
        tangent: `(..., d)`.
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., d)` of norm below 1 / sqrt(c).
    """
    return poincare_project(tangent * tanh_ratio(norm(tangent) * root(c)), c)


@vectorwise
def poincare_logmap0(points: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Logarithmic map at the origin, the inverse of `poincare_expmap0`.

    Args:
        points: `(..., d)` of norm below 1 / sqrt(c).
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., d)`.
    """
    return points * atanh_ratio(norm(points) * root(c))


@vectorwise
def mobius_add(x: Tensor, y: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Return the Möbius sum x ⊕ y: `y` translated by the isometry that takes the origin to `x`.

    Args:
        x: `(..., d)` of norm below 1 / sqrt(c).
        y: `(..., d)` of norm below 1 / sqrt(c).
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., d)` of norm below 1 / sqrt(c).
    """
    radius = 1 / root(c)
    x, y = _inside(x / radius), _inside(y / radius)
    twice = 2 * (x * y).sum(-1, keepdim=True)
    xx, yy = x.square().sum(-1, keepdim=True), y.square().sum(-1, keepdim=True)
    # At least (1 - |x| |y|)², which must not round to zero for opposite points near the boundary.
    below = (1 + twice + xx * yy).clamp_min((torch.finfo(x.dtype).eps / 2) ** 2)
    return poincare_project(((1 + twice + yy) * x + (1 - xx) * y) / below * radius, c)


@vectorwise
def poincare_conformal_factor(points: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Return the conformal factor 2 / (1 - c|x|²), the ratio of hyperbolic to Euclidean length at points.

    Args:
        points: `(..., d)` of norm below 1 / sqrt(c).
        c: Minus the sectional curvature, positive.

    Returns:
        `(...,)`, at least 2.
    """
    return 2 / _gap(points * root(c))[..., 0]


@vectorwise
def poincare_distance(x: Tensor, y: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Return geodesic distances; the gradient for equal points is taken to be 0.

    Args:
        x: `(..., d)` of norm below 1 / sqrt(c).
        y: `(..., d)` of norm below 1 / sqrt(c).
        c: Minus the sectional curvature, positive.

    Returns:
        `(...,)`, at least 0.
    """
    return poincare_distance_matrix(x[..., None, :], y[..., None, :], c)[..., 0, 0]


@pairwise
def poincare_distance_matrix(x: Tensor, y: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Return the geodesic distances of all pairs: 2 / sqrt(c) asinh(sqrt(c) |x - y| / sqrt((1 - c|x|²)(1 - c|y|²))).

    Args:
        x: `(..., n, d)` of norm below 1 / sqrt(c).
        y: `(..., m, d)` of norm below 1 / sqrt(c).
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., n, m)`, at least 0.
    """
    scale = root(c)
    x, y = _inside(x * scale), _inside(y * scale)
    return 2 / scale * asinh(distances(x, y) / (_gap(x).sqrt() * _gap(y).sqrt().mT))


def _gap(points: Tensor) -> Tensor:
    length = norm(points).clamp(max=below_one(points.dtype))
    return (1 - length) * (1 + length)


def _inside(points: Tensor) -> Tensor:
    """Move points on or beyond the unit ball's boundary just inside it."""
    return _shortened(points, below_one(points.dtype))


def _shortened(points: Tensor, longest: float | Tensor) -> Tensor:
    length = norm(points)
    outside = length > longest
    # Divided first: far outside, the quotient of lengths alone would underflow to 0.
    return torch.where(outside, points / torch.where(outside, length, 1) * longest, points)


def _edge(points: Tensor) -> float:
    """Return the largest norm of a point: below 1 by more than the rounding error of a norm of `d` numbers."""
    return 1 - 4 * torch.finfo(points.dtype).eps


@vectorwise
def lorentz_to_poincare(points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Turn points of the hyperboloid into points of the Poincaré ball: R x / (x₀ + R).

    Args:
        points: `(..., d + 1)`.
        radius_squared: R², positive.

    Returns:
        `(..., d)` of norm at most R.
    """
    radius = root(radius_squared)
    points = lorentz_project(points, radius_squared)
    return points[..., 1:] / (1 + points[..., :1] / radius)


@vectorwise
def poincare_to_lorentz(points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Turn points of the Poincaré ball into points of the hyperboloid.

    Args:
        points: `(..., d)` of norm below R.
        radius_squared: R² = 1 / c, positive.

    Returns:
        `(..., d + 1)`.
    """
    radius = root(radius_squared)
    unit = points / radius
    length = norm(unit)
    unit, length = _within_border(unit, length)
    return lorentz_from_space(2 * unit / ((1 - length) * (1 + length)) * radius, radius_squared)


@vectorwise
def lorentz_to_klein(points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Turn points of the hyperboloid into points of the Klein ball: x / x₀.

    Args:
        points: `(..., d + 1)`.
        radius_squared: R², positive.

    Returns:
        `(..., d)` of norm at most 1.
    """
    points = lorentz_project(points, radius_squared)
    return points[..., 1:] / points[..., :1]


@vectorwise
def klein_to_lorentz(points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Turn points of the Klein ball into points of the hyperboloid.

    Args:
        points: `(..., d)` of norm below 1.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)`.
    """
    points, length = _within_border(points, norm(points))
    space = points * root(radius_squared) / ((1 - length) * (1 + length)).sqrt()
    return lorentz_from_space(space, radius_squared)


def _within_border(points: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Move points on or beyond a unit ball's boundary just inside it; also return their lengths."""
    longest = below_one(points.dtype)
    outside = length > longest
    shortened = points / torch.where(outside, length, 1) * longest
    return torch.where(outside, shortened, points), length.clamp(max=longest)
