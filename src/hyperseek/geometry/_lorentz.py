"""The hyperboloid: lift, products, half chords, distances, exponential and logarithmic maps; all differentiable.

Convention of all `lorentz_*` functions: the time coordinate comes first; `radius_squared` is R² of <x, x> = -R², a
number or a 0-dim tensor, which may be trained; the sectional curvature is -1/R². Everything is computed in float32, or
in float64 for float64 points, also under autocast. Distances and maps read the space part of points and recompute the
time, so violations of the constraint by an optimiser or a lower precision do not matter. Tangent vectors at the origin
are given by their space part, `d` numbers; elsewhere they are ambient, `d + 1`.

Half chords are s = sinh(distance / 2R). With x and y the space parts over R, u and v their directions, rho and sigma
their distances from the origin over R:

    s² = sinh²((rho - sigma) / 2) + sinh(rho) sinh(sigma) |u - v|² / 4
    ds²/dx = (u sinh(rho - sigma) / cosh(rho) + sinh(sigma) (u - v)) / 2

Both have no cancellation, so they are as exact as the coordinates. Autograd of the first line would be wrong at the
origin, where rho and u have kinks that cancel only in the sum; the second line is right there for any u.

Shapes: `n` and `m` points, `d` dimensions; leading axes broadcast.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyperseek.errors import InputError
from hyperseek.geometry.numerics import (
    asinh,
    asinh_ratio,
    bounded_gradient,
    directions,
    exponents,
    farthest,
    finite,
    full_precision,
    norm,
    pairwise,
    root,
    saturated,
    sinh_ratio,
    times_power,
    vectorwise,
    widest,
)

# Closer points count as identical: a distance has a kink there, and its gradient is taken to be 0.
_SAME = 1e-30
# Rounding of sin² of half an angle, from a float64 product of unit vectors, per square root of the dimension; angles
# below it are of the size of float32's rounding.
_ALIGNED = 5e-16


def half_chord_matrix(x: Tensor, y: Tensor) -> Tensor:
    """Return the half chords of all pairs.

    Args:
        x: `(..., n, d)` space parts over R.
        y: `(..., m, d)`, of the same dtype.

    Returns:
        `(..., n, m)`, at least 0.
    """
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])  # type: ignore[no-untyped-call]
    x, y = (points.expand(*batch, *points.shape[-2:]) for points in (x, y))
    chord: Tensor = _HalfChord.apply(x, y)  # type: ignore[no-untyped-call]
    return chord


class _HalfChord(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:
        long_u, long_v = norm(x), norm(y)
        radial = torch.sinh((asinh(long_u) - asinh(long_v).mT) / 2)
        angular = _half_angles(x, y)
        # Roots before the product, which would overflow at half the distance; in brackets, for symmetry.
        return torch.hypot(radial, angular * (long_u.sqrt() * long_v.sqrt().mT))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, y, chord = ctx.saved_tensors
        return _backward(x, y, chord, gradient)


def _half_angles(x: Tensor, y: Tensor) -> Tensor:
    """Return |u - v| / 2 of all pairs: the sines of half their angles."""
    if x.dtype == widest(x):
        (u, _), (v, _) = directions(x), directions(y)
        return torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist") / 2
    # A product in float64 is as exact as differences in float32, and many times faster in many dimensions.
    (u, _), (v, _) = directions(x.double()), directions(y.double())
    if min(x.shape[-2], y.shape[-2]) == 1:  # differences cost no more, and resolve every angle
        return (norm(u - v).mT if x.shape[-2] == 1 else norm(u - v)).to(x.dtype) / 2
    squared = (1 - u @ v.mT) / 2
    return torch.where(squared > _ALIGNED * x.shape[-1] ** 0.5, squared, 0).sqrt().to(x.dtype)


@full_precision
def _backward(x: Tensor, y: Tensor, chord: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    if x.dtype != widest(x):  # as in the forward pass: sums of directions cancel
        near, far = _backward(*(tensor.double() for tensor in (x, y, chord, gradient)))
        return near.float(), far.float()
    same = chord < _SAME
    pull = torch.where(same, 0, gradient / torch.where(same, 1, chord)) / 4
    (u, long_u), (v, long_v) = directions(x), directions(y)
    apart = pull * torch.sinh(asinh(long_u) - asinh(long_v).mT)
    return (
        _side(u, long_u, v, pull * long_v.mT, apart),
        _side(v, long_v, u, (pull * long_u).mT, -apart.mT),
    )


def _side(u: Tensor, long_u: Tensor, v: Tensor, across: Tensor, apart: Tensor) -> Tensor:
    radial = apart.sum(-1, keepdim=True) / torch.hypot(long_u, torch.ones_like(long_u))
    return u * (radial + across.sum(-1, keepdim=True)) - across @ v


@vectorwise
def lorentz_from_space(space: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Prepend the time coordinate to space coordinates.

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

    The distance of the point from the origin is in the last digits of the vector's time coordinate, and in float32 is
    lost beyond 8 R, the largest distance of a result. `lorentz_centroid` sums points without that loss.

    Args:
        vectors: `(..., d + 1)`, such as sums of points. A vector of zeros becomes the origin.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points of the hyperboloid.
    """
    # Neither scale nor its gradient matters, but squares of long vectors would overflow. Vectors too short to square
    # have the gradient 0, as in `directions`.
    exponent = exponents(vectors)
    short = exponent < math.log2(torch.finfo(vectors.dtype).tiny) / 2
    vectors = torch.ldexp(torch.where(short, vectors.detach(), vectors), -exponent)
    time, space = vectors[..., :1], space_part(vectors)
    length = norm(space)
    total = time.abs() + length
    # Lightlike vectors have length 0, which is a divisor: it is raised to the rounding error of a sum.
    gap = (time.abs() - length).abs().clamp_min(torch.finfo(vectors.dtype).eps * total.detach())
    squared = gap * total
    empty = total == 0
    scale = root(radius_squared) / torch.where(empty, 1, squared).sqrt()
    sign = torch.where(time < 0, -1, 1)
    return lorentz_from_space(torch.where(empty, 0, scale * sign) * space, radius_squared)


@vectorwise
def lorentz_inner(x: Tensor, y: Tensor) -> Tensor:
    """Return the Lorentz product <x, y> = -x₀ y₀ + x₁ y₁ + … of vectors of the ambient space.

    Far from the origin almost all digits cancel: use distances if near ties matter. Values beyond the dtype's range are
    clamped to it.

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
    """Return the Lorentz products of all pairs, as one matrix product, clamped to the dtype's range.

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
    """Return products; recompute infinite and undefined ones from vectors scaled by powers of two."""

    def again() -> Tensor:
        first, second = exponents(x), exponents(y)
        return times_power(product(torch.ldexp(x, -first), torch.ldexp(y, -second)), joined(first, second))

    return finite(product(x, y), again)


@vectorwise
def lorentz_distance(x: Tensor, y: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Return geodesic distances, 2 R asinh(|x - y| / 2R): exact for near points, with gradient 0 for equal ones.

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
    """Return the squared Lorentz (not geodesic) distances |x - y|² = -2R² - 2<x, y> of all pairs, without cancellation.

    They are clamped to the dtype's largest number, which float32 reaches for points 88 R apart.

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
    """Return the space part `(..., d)` of points `(..., d + 1)`; InputError if there is only a time."""
    if points.shape[-1] < 2:
        raise InputError(f"points need a time and at least 1 space coordinate; the shape is {tuple(points.shape)}")
    return points[..., 1:]


@vectorwise
def lorentz_expmap0(tangent: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Exponential map at the origin: the point in a vector's direction, at the vector's length from the origin.

    Args:
        tangent: `(..., d)`; the length is clamped to 40 R in float32 and 300 R in float64.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points.
    """
    return lorentz_from_space(tangent * sinh_ratio(norm(tangent) / root(radius_squared)), radius_squared)


@vectorwise
def lorentz_logmap0(points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Logarithmic map at the origin, the inverse of `lorentz_expmap0`; Euclidean methods apply to its results.

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
    """Exponential map: follow geodesics from points along tangent vectors.

    Args:
        base: `(..., d + 1)` points.
        tangent: `(..., d + 1)`, with <base, tangent> = 0; only its space part is read.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points, no farther from the origin than the base or the limit of `lorentz_expmap0`.
    """
    radius = root(radius_squared)
    space, step = space_part(base), space_part(tangent)
    time = lorentz_from_space(space, radius_squared)[..., :1]
    # <v, v> as a sum of squares: of the part orthogonal to the base's direction, and of the shortened part along it.
    direction, _ = directions(space)
    along = (direction * step).sum(-1, keepdim=True)
    length = norm(torch.cat([step - along * direction, along * radius / time], dim=-1)) / radius
    far = length.clamp(max=farthest(length.dtype))
    # Both are scaled by a power of two, since far out the product with cosh would overflow before it is shortened.
    exponent = exponents(torch.cat([space, step], dim=-1)).clamp_min(0)
    end = torch.cosh(far) * torch.ldexp(space, -exponent) + sinh_ratio(length) * torch.ldexp(step, -exponent)
    # No farther than the limit of the exponential map at the origin, or than the base.
    longest = torch.maximum(norm(space.detach()), torch.sinh(torch.ones_like(length) * farthest(length.dtype)) * radius)
    return lorentz_from_space(_shortened(end, exponent, longest), radius_squared)


@vectorwise
def lorentz_logmap(base: Tensor, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Logarithmic map: the tangent vectors at `base` that `lorentz_expmap` maps to points.

    Args:
        base: `(..., d + 1)` points.
        points: `(..., d + 1)`.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` tangent vectors, zero for equal points.
    """
    radius = root(radius_squared)
    x, y = space_part(base), space_part(points)
    chord = half_chord_matrix((x / radius)[..., None, :], (y / radius)[..., None, :])[..., 0]
    ratio, long = asinh_ratio(chord), torch.hypot(chord, torch.ones_like(chord))
    # Far out the square of the chord would overflow; the quotients do not.
    way = ratio / long * (y - x) - 2 * (ratio * chord) * (chord / long) * x
    return _tangent(base, saturated(way), radius_squared)


@vectorwise
def lorentz_transport(base: Tensor, to: Tensor, vectors: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
    """Parallel transport of tangent vectors along geodesics, which preserves lengths and angles.

    Args:
        base: `(..., d + 1)` points to which the vectors are tangent.
        to: `(..., d + 1)` points.
        vectors: `(..., d + 1)`, with <base, vectors> = 0.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` tangent vectors at `to`.
    """
    # Derivatives with respect to far points exceed float32 if the transported vectors do.
    base, to = bounded_gradient(base), bounded_gradient(to)
    x, y = (lorentz_from_space(space_part(points), radius_squared) for points in (base, to))
    exponent = exponents(vectors)  # the map is linear, and products of long vectors would overflow
    vectors = torch.ldexp(vectors, -exponent)
    gap = y - x
    # y₀ - x₀ from the space parts, and <y, v> = <y - x, v>: differences before they are lost to rounding.
    later = (gap[..., 1:] * ((x + y)[..., 1:] / (x + y)[..., :1])).sum(-1, keepdim=True)
    radius = root(radius_squared)
    chord = half_chord_matrix((x[..., 1:] / radius)[..., None, :], (y[..., 1:] / radius)[..., None, :])[..., 0]
    # Half the length of x + y; dividing by it twice avoids its square, which would overflow.
    half = radius * torch.hypot(chord, torch.ones_like(chord))
    shared = ((gap / half * vectors)[..., 1:].sum(-1, keepdim=True) - later / half * vectors[..., :1]) / (2 * half)
    carried = space_part(vectors) + shared * (x + y)[..., 1:]
    return _tangent(to, times_power(carried, exponent), radius_squared)


def _shortened(space: Tensor, exponent: Tensor, longest: Tensor) -> Tensor:
    """Return space parts times 2 ** `exponent`, shortened to `longest`."""
    bound = torch.ldexp(longest, -exponent)
    length = norm(space)
    outside = length > bound
    return torch.ldexp(torch.where(outside, space * (bound / torch.where(outside, length, 1)), space), exponent)


def _tangent(base: Tensor, space: Tensor, radius_squared: float | Tensor) -> Tensor:
    """Complete the space part of a tangent vector with its time coordinate."""
    point = lorentz_from_space(base[..., 1:], radius_squared)
    time = saturated((point[..., 1:] / point[..., :1] * space).sum(-1, keepdim=True))
    return torch.cat([time.expand(*space.shape[:-1], 1), space], dim=-1)
