"""Means of points of the hyperboloid: the centroid, the Einstein midpoint, and the outward ones.

With the Lorentz factor gamma = x₀ / R = cosh(distance from the origin / R) and a point's weight w, each of them is

    the point of the hyperboloid on the ray of  sum w phi(gamma) x,   phi = gamma^power / (1 + saturation gamma^power).

Convention: `power` 0 is the true Einstein midpoint, which is the Lorentz centroid. The exponent that HypRAG's paper
(arXiv 2602.07739) calls p multiplies gamma once more: its p is `power` - 1, and its p = 0 is `power` = 1, the default
of the original's code. docs/geometry.md has details, also on which of them are truly outward.

Weights are computed as logarithms, and the sum is scaled to the hyperboloid without the difference of its time and its
length, which float32 has lost at a distance of 8 R. Shapes: `n` points to average, `d` dimensions.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyperseek.errors import InputError
from hyperseek.geometry._lorentz import lorentz_from_space, space_part
from hyperseek.geometry.numerics import check_fits, directions, full_precision, norm, root, vectorwise


@vectorwise
def lorentz_centroid(
    points: Tensor,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    radius_squared: float | Tensor = 1.0,
) -> Tensor:
    """Return the point with the least weighted sum of squared Lorentz distances to points.

    Args:
        points: `(..., n, d + 1)`.
        weights: `(..., n)`, at least 0, of any scale; None for equal weights.
        mask: `(..., n)`, true or nonzero for points that count. Masked points may hold anything, also NaN.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points; the origin, with gradients of 0, where nothing counts.
    """
    space = _kept(points, mask)
    if weights is not None:
        check_fits("weights", weights, space.shape[:-1])
    shares = torch.ones_like(space[..., 0]) if weights is None else weights.expand(space.shape[:-1])
    if mask is not None:
        shares = torch.where(mask.bool(), shares, 0)
    if shares.shape[-1]:
        # Divided by the largest first, so that the sum cannot overflow.
        shares = shares / _or_one(shares.detach().amax(-1, keepdim=True))
    return _centroid(space, shares / _or_one(shares.sum(-1, keepdim=True)), radius_squared)


@vectorwise
def einstein_midpoint(
    points: Tensor,
    mask: Tensor | None = None,
    *,
    power: float = 0.0,
    saturation: float = 0.0,
    radius_squared: float | Tensor = 1.0,
) -> Tensor:
    """Return the midpoint with points weighted by phi(gamma): by default the true Einstein midpoint.

    Args:
        points: `(..., n, d + 1)`.
        mask: `(..., n)`, true or not 0 where a point counts; None for all.
        power: Exponent of gamma: 0 for equal weights, more to lean outward; the paper's p + 1.
        saturation: At least 0; weights level off at 1 / saturation.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points; the origin, with gradients of 0, where nothing counts.
    """
    space = _kept(points, mask)
    return _centroid(space, _shares(space, mask, power, saturation, radius_squared), radius_squared)


@vectorwise
def outward_einstein_midpoint(
    points: Tensor,
    mask: Tensor | None = None,
    *,
    power: float = 1.0,
    saturation: float = 0.0,
    keep_radius: bool = False,
    radius_squared: float | Tensor = 1.0,
) -> Tensor:
    """Return the outward Einstein midpoint, the pooling of HypRAG; truly outward with `keep_radius`.

    Args:
        points: `(..., n, d + 1)`.
        mask: `(..., n)`, true or not 0 where a point counts; None for all.
        power: Exponent of gamma; the paper's p + 1.
        saturation: At least 0; weights level off at 1 / saturation.
        keep_radius: Keep the direction of the midpoint, but take the mean of the points' times, weighted by phi. With a
            `power` of at least 0, the result is then never nearer to the origin than the points on average, in time or
            in distance, nor farther than the farthest point; and without saturation, a larger `power` never moves it
            inwards. Otherwise only the upper bound holds.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)` points; the origin, with gradients of 0, if no point counts, and with `keep_radius` also if the
        sum of the points has no direction.
    """
    space = _kept(points, mask)
    shares = _shares(space, mask, power, saturation, radius_squared)
    if not keep_radius:
        return _centroid(space, shares, radius_squared)
    radius = root(radius_squared)
    return lorentz_from_space(_mean_time(space / radius, shares) * radius, radius_squared)


@vectorwise
def outward_weights(
    points: Tensor,
    mask: Tensor | None = None,
    *,
    power: float = 1.0,
    saturation: float = 0.0,
    radius_squared: float | Tensor = 1.0,
) -> Tensor:
    """Return the weights of the outward Einstein midpoint: w phi(gamma), normalised to sum 1.

    Args:
        points: `(..., n, d + 1)`.
        mask: `(..., n)`, true or not 0 where a point counts; None for all.
        power: Exponent of gamma; the paper's p + 1. One more gives the weights of Klein coordinates.
        saturation: At least 0.
        radius_squared: R², positive.

    Returns:
        `(..., n)` in [0, 1]; all 0 if no point counts.
    """
    return _shares(_kept(points, mask), mask, power, saturation, radius_squared)


def _kept(points: Tensor, mask: Tensor | None) -> Tensor:
    """Return space parts, zero where masked, so that no gradient flows to masked points, whatever they hold."""
    space = space_part(points)
    if points.dim() < 2:
        raise InputError(f"points to average must have the shape (..., n, d + 1), not {tuple(points.shape)}")
    if mask is not None:
        check_fits("mask", mask, space.shape[:-1])
    return space if mask is None else torch.where(mask.bool()[..., None], space, 0)


def _shares(
    space: Tensor, mask: Tensor | None, power: float, saturation: float, radius_squared: float | Tensor
) -> Tensor:
    if not (math.isfinite(power) and 0 <= saturation < math.inf):
        raise InputError(f"power must be finite and saturation at least 0; given {power} and {saturation}")
    logarithm = _bounded(power, space.dtype) * _log_gamma(norm(space / root(radius_squared))[..., 0])
    # Beyond this, all weight is on the farthest point anyway; differences of infinities would be NaN.
    logarithm = logarithm.clamp(-_FAR, _FAR)
    if saturation > 0:
        # log phi up to a constant, which normalisation removes.
        logarithm = torch.nn.functional.logsigmoid(logarithm + math.log(saturation))
    if mask is None:
        return logarithm.softmax(-1)
    masked = ~mask.bool()
    # A softmax over no points would be NaN: there it is taken of finite numbers and discarded.
    logarithm = logarithm.masked_fill(masked & ~masked.all(-1, keepdim=True), -math.inf)
    return torch.where(masked, 0, logarithm.softmax(-1))


def _centroid(space: Tensor, shares: Tensor, radius_squared: float | Tensor) -> Tensor:
    """Return R v / sqrt(-<v, v>) of v = sum of shares and points.

    -<v, v> = (v₀ - <v, e>)(v₀ + <v, e>) with e the direction of v, and v₀ - <v, e> = sum of shares times horizon gaps.
    As e points along v, its derivative contributes nothing, and it is treated as a constant.
    """
    radius = root(radius_squared)
    points = lorentz_from_space(space / radius)
    total = (shares[..., None] * points).sum(-2)
    v0, v = total[..., :1], total[..., 1:]
    e = _direction(v.detach())
    gap = (shares * horizon_gap(points[..., 1:], e[..., None, :])).sum(-1, keepdim=True)
    outer = v0 + (v * e).sum(-1, keepdim=True)
    # One root at a time, as the product would overflow far out.
    return lorentz_from_space(v / _or_one(gap).sqrt() / _or_one(outer).sqrt() * radius, radius_squared)


def _mean_time(space: Tensor, shares: Tensor) -> Tensor:
    """Return the space part, over R, of the point in the direction of the sum whose time is the mean time."""
    length = norm(space)
    time = torch.hypot(length, torch.ones_like(length))
    beyond = (shares[..., None] * length * (length / (1 + time))).sum(-2)  # the mean time - 1, not as a difference
    total = (shares[..., None] * space).sum(-2)
    # A sum that is only rounding error has no direction; below this length the result shrinks, smoothly.
    least = 8 * torch.finfo(space.dtype).eps * (shares[..., None] * length).sum(-2)
    longer = torch.maximum(norm(total), least)
    # The gradient of a quotient by a length whose square underflows would not be finite.
    longer = torch.where(longer > torch.finfo(longer.dtype).tiny ** 0.5, longer, 0)
    return total / _or_one(longer) * _root(beyond) * (beyond + 2).sqrt()


def _direction(vectors: Tensor) -> Tensor:
    """Return unit vectors; for zero vectors the first axis, as any direction will do."""
    unit, _ = directions(vectors)
    first = torch.zeros_like(vectors)
    first[..., 0] = 1
    return torch.where(unit.any(-1, keepdim=True), unit, first)


def _log_gamma(length: Tensor) -> Tensor:
    """Return log sqrt(1 + r²), without squaring large lengths or adding 1 to small ones."""
    near, far = length.clamp(max=1), length.clamp_min(1)
    return torch.where(length > 1, torch.log(torch.hypot(far, torch.ones_like(far))), torch.log1p(near.square()) / 2)


def _bounded(power: float, dtype: torch.dtype) -> float:
    largest = torch.finfo(dtype).max
    return max(-largest, min(largest, power))


def _or_one(values: Tensor) -> Tensor:
    return torch.where(values > 0, values, 1)


def _root(values: Tensor) -> Tensor:
    """Return square roots, with a gradient of 0 at 0."""
    return torch.where(values > 0, _or_one(values).sqrt(), 0)


_FAR = 1e30


def horizon_gap(x: Tensor, e: Tensor) -> Tensor:
    """Return sqrt(1 + |x|²) - <x, e>: exp of the Busemann function, a distance of points from the ideal point e.

    Far out, both terms agree in all digits of float32. So it is computed from the direction u and the length r of the
    space part, as 1 / (x₀ + r) + r |u - e|² / 2, and its gradient likewise.

    Args:
        x: `(..., d)` space parts over R.
        e: `(..., d)` unit vectors with the same number of axes, each but the last of the same size or 1; taken as
            constants.

    Returns:
        `(...,)`, positive.
    """
    gap: Tensor = _HorizonGap.apply(x, e.detach())  # type: ignore[no-untyped-call]
    return gap


class _HorizonGap(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, e: Tensor) -> Tensor:
        u, length, time = _parts(x)
        return (1 / (time + length))[..., 0] + length[..., 0] * (u - e).square().sum(-1) / 2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, e = ctx.saved_tensors
        return _backward(x, e, gradient), None


@full_precision
def _backward(x: Tensor, e: Tensor, gradient: Tensor) -> Tensor:
    # x / x₀ - e, by differences; also right at the origin, where u may be anything.
    u, length, time = _parts(x)
    return gradient[..., None] * ((u - e) - u / (time * (time + length)))


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, length = directions(x)
    return u, length, torch.hypot(length, torch.ones_like(length))
