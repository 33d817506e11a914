"""Exponential and logarithmic maps and parallel transport of the hyperboloid. Conventions: see `_lorentz`.

Tangent vectors at the origin are given by their space part, `d` numbers; elsewhere they are ambient, `d + 1`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperseek.geometry._chord import half_chord_matrix
from hyperseek.geometry._lorentz import lorentz_from_space, space_part
from hyperseek.geometry._precision import bounded_gradient, root, vectorwise
from hyperseek.geometry._radial import (
    asinh_ratio,
    directions,
    exponents,
    farthest,
    norm,
    saturated,
    sinh_ratio,
    times_power,
)


@vectorwise
def lorentz_expmap0(tangent: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Walk from the origin: the point in a vector's direction whose distance is the vector's length.

    Args:
        tangent: `(..., d)`; longer ones than 40 R in float32, 300 R in float64, end there.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points.
    """
    return lorentz_from_space(tangent * sinh_ratio(norm(tangent) / root(radius_squared)), radius_squared)


@vectorwise
def lorentz_logmap0(points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Return the tangent vectors at the origin that `lorentz_expmap0` takes to points: where Euclidean probes work.

    Args:
        points: `(..., d + 1)`.
        radius_squared: R², positive.

    Returns:
        `(..., d)`.
    """
    space = space_part(points)
    return space * asinh_ratio(norm(space) / root(radius_squared))


@vectorwise
def lorentz_expmap(base: Tensor, tangent: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Walk from points along tangent vectors there.

    Args:
        base: `(..., d + 1)` points.
        tangent: `(..., d + 1)`, with <base, tangent> = 0; only its space part is read.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points, no farther from the origin than the base or than `lorentz_expmap0` goes.
    """
    radius = root(radius_squared)
    space, step = space_part(base), space_part(tangent)
    time = lorentz_from_space(space, radius_squared)[..., :1]
    # <v, v> as a sum of squares: of the part across the base's direction, and of that along it, shortened.
    direction, _ = directions(space)
    along = (direction * step).sum(-1, keepdim=True)
    length = norm(torch.cat([step - along * direction, along * radius / time], dim=-1)) / radius
    far = length.clamp(max=farthest(length.dtype))
    # Both over a power of two, since far out the product with cosh overflows before it is shortened.
    exponent = exponents(torch.cat([space, step], dim=-1)).clamp_min(0)
    end = torch.cosh(far) * torch.ldexp(space, -exponent) + sinh_ratio(length) * torch.ldexp(step, -exponent)
    # No farther than the exponential map at the origin goes, or than the base is.
    longest = torch.maximum(norm(space.detach()), torch.sinh(torch.ones_like(length) * farthest(length.dtype)) * radius)
    return lorentz_from_space(_shortened(end, exponent, longest), radius_squared)


@vectorwise
def lorentz_logmap(base: Tensor, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Return the tangent vectors at `base` that `lorentz_expmap` takes to points.

    Args:
        base: `(..., d + 1)` points.
        points: `(..., d + 1)`.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` tangent vectors, zero where both are one point.
    """
    radius = root(radius_squared)
    x, y = space_part(base), space_part(points)
    chord = half_chord_matrix((x / radius)[..., None, :], (y / radius)[..., None, :])[..., 0]
    ratio, long = asinh_ratio(chord), torch.hypot(chord, torch.ones_like(chord))
    # Far out a square of the chord overflows; its quotients do not.
    way = ratio / long * (y - x) - 2 * (ratio * chord) * (chord / long) * x
    return _tangent(base, saturated(way), radius_squared)


@vectorwise
def lorentz_transport(base: Tensor, to: Tensor, vectors: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Carry tangent vectors along geodesics; lengths and angles stay.

    Args:
        base: `(..., d + 1)` points, where the vectors are tangent.
        to: `(..., d + 1)` points.
        vectors: `(..., d + 1)`, with <base, vectors> = 0.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` tangent vectors at `to`.
    """
    # Derivatives by far points exceed float32 where the carried vectors themselves do.
    base, to = bounded_gradient(base), bounded_gradient(to)
    x, y = (lorentz_from_space(space_part(points), radius_squared) for points in (base, to))
    exponent = exponents(vectors)  # the map is linear in vectors, whose products would overflow
    vectors = torch.ldexp(vectors, -exponent)
    gap = y - x
    # y₀ - x₀ from the space parts, and <y, v> = <y - x, v>: differences before they are lost in long vectors.
    later = (gap[..., 1:] * ((x + y)[..., 1:] / (x + y)[..., :1])).sum(-1, keepdim=True)
    radius = root(radius_squared)
    chord = half_chord_matrix((x[..., 1:] / radius)[..., None, :], (y[..., 1:] / radius)[..., None, :])[..., 0]
    # Half the length of x + y, divided by before its square overflows.
    half = radius * torch.hypot(chord, torch.ones_like(chord))
    shared = ((gap / half * vectors)[..., 1:].sum(-1, keepdim=True) - later / half * vectors[..., :1]) / (2 * half)
    carried = space_part(vectors) + shared * (x + y)[..., 1:]
    return _tangent(to, times_power(carried, exponent), radius_squared)


def _shortened(space: Tensor, exponent: Tensor, longest: Tensor) -> Tensor:
    """Return space parts times two to the power of `exponent`, no longer than `longest`."""
    bound = torch.ldexp(longest, -exponent)
    length = norm(space)
    outside = length > bound
    return torch.ldexp(torch.where(outside, space * (bound / torch.where(outside, length, 1)), space), exponent)


def _tangent(base: Tensor, space: Tensor, radius_squared: float | Tensor) -> Tensor:
    """Complete the space part of a tangent vector by the time that makes it one."""
    point = lorentz_from_space(base[..., 1:], radius_squared)
    time = saturated((point[..., 1:] / point[..., :1] * space).sum(-1, keepdim=True))
    return torch.cat([time.expand(*space.shape[:-1], 1), space], dim=-1)
