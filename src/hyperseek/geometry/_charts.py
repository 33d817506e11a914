"""The hyperboloid as the Poincaré ball and as the Klein ball, and back.

The Poincaré ball has the radius R = 1 / sqrt(c), as the `poincare_*` functions; the Klein ball has the radius 1. Balls
crowd below their radius: float32 tells distances from the origin apart up to about 17 R in Poincaré's and 9 R in
Klein's, where points on the border and beyond it are put. Nothing that is trained should pass through either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperseek.geometry._lorentz import lorentz_from_space, lorentz_project
from hyperseek.geometry._precision import root, vectorwise
from hyperseek.geometry._radial import below_one, norm


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
