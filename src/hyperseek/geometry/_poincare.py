"""The Poincaré ball and the Klein ball: their maps from the hyperboloid and back, addition and distances.

The Poincaré ball has the radius R = 1 / sqrt(c), where `c` is a number or a 0-dim tensor; the Klein ball has radius 1.
The metric's factor is 2 at the origin, so |x| near it is half a distance, and `poincare_expmap0(u)` is the point that
`lorentz_expmap0(2 u)` is. Precision and autocast: as the hyperboloid's.

Balls crowd below their radius. Distances are as exact as coordinates are: in float32 they keep four digits up to 5 R,
and distances from the origin are told apart up to about 17 R in Poincaré's ball and 9 R in Klein's, where points on the
border and beyond it are put. Train on the hyperboloid where points go far.

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
    """Put points on the border or outside back into the ball, as far out as its numbers go.

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
    """Walk from the origin: tanh(sqrt(c) |u|) u / (sqrt(c) |u|).

    Args:
        tangent: `(..., d)`.
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., d)` of norm below 1 / sqrt(c).
    """
    return poincare_project(tangent * tanh_ratio(norm(tangent) * root(c)), c)


@vectorwise
def poincare_logmap0(points: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Return the tangent vectors at the origin that `poincare_expmap0` takes to points.

    Args:
        points: `(..., d)` of norm below 1 / sqrt(c).
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., d)`.
    """
    return points * atanh_ratio(norm(points) * root(c))


@vectorwise
def mobius_add(x: Tensor, y: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Return the Möbius sum x ⊕ y: `y` after the motion that takes the origin to `x`.

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
    # At least (1 - |x| |y|)², whose rounding must not make it zero for opposite points near the border.
    below = (1 + twice + xx * yy).clamp_min((torch.finfo(x.dtype).eps / 2) ** 2)
    return poincare_project(((1 + twice + yy) * x + (1 - xx) * y) / below * radius, c)


@vectorwise
def poincare_conformal_factor(points: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Return how many times longer than in coordinates a small step at points is: 2 / (1 - c|x|²).

    Args:
        points: `(..., d)` of norm below 1 / sqrt(c).
        c: Minus the sectional curvature, positive.

    Returns:
        `(...,)`, at least 2.
    """
    return 2 / _gap(points * root(c))[..., 0]


@vectorwise
def poincare_distance(x: Tensor, y: Tensor, c: float | Tensor = 1.0) -> Tensor:
    """Return geodesic distances; the gradient where both points are one is taken to be 0.

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
    """Put what lies on the unit ball's border or beyond just below it."""
    return _shortened(points, below_one(points.dtype))


def _shortened(points: Tensor, longest: float | Tensor) -> Tensor:
    length = norm(points)
    outside = length > longest
    # Divided first: far outside, the quotient of lengths alone would be 0.
    return torch.where(outside, points / torch.where(outside, length, 1) * longest, points)


def _edge(points: Tensor) -> float:
    """Return the longest norm a point is left at: below 1 by more than what rounding adds to a norm of `d` numbers."""
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
    """Put points of a unit ball that lie on its border or beyond just below it; return their lengths, too."""
    longest = below_one(points.dtype)
    outside = length > longest
    shortened = points / torch.where(outside, length, 1) * longest
    return torch.where(outside, shortened, points), length.clamp(max=longest)
