"""Hyperbolic space in polar coordinates: direction and distance from the origin.

The hyperboloid and the Poincaré ball are two models of one space. Far from the origin, their coordinates lose near
ties: those of the hyperboloid grow exponentially with the distance, and the inner product cancels almost all digits;
those of the ball crowd below 1. Polar coordinates have neither problem, so points are stored and compared in them.

**Polar points** `(..., d + 2)`: a unit direction (zero at the origin), then the distance from the origin in units of
the curvature radius, rho >= 0, as the sum of two numbers, of which half precision keeps 22 bits instead of 11.

**Entailment cones** ("Hyperbolic Entailment Cones", arXiv 1804.01882, in the Lorentz model as in MERU, arXiv
2304.09172): the cone of a general point, opening away from the origin, contains the more specific ones. Angles and
polar points do not depend on curvature, so neither do the functions of cones.

Conventions: time coordinate first; `radius_squared` is R² of the hyperboloid <x, x> = -R² (sectional curvature -1/R²)
and `c = 1/R²` of the ball of radius 1/sqrt(c). Shapes: `Q` queries, `N` documents, `n` separate documents per query.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hyperseek.errors import InputError
from hyperseek.geometry._lorentz import space_part
from hyperseek.geometry.numerics import (
    asinh,
    check_fits,
    directions,
    full_precision,
    norm,
    pairwise,
    root,
    saturated,
    vectorwise,
    widest,
)

POLAR_EXTRA = 2
"""Numbers of a polar point beyond its direction."""

FARTHEST = 65504.0
"""Largest distance from the origin, in units of the curvature radius, that half precision can store."""

# Margin in the logarithm of the largest number, for a factor R and a sum of two exponentials.
_ROOM = 1.0
# Replaces the logarithm of 0.
_NONE = -1e6
# Logarithm of the half chord from which on asinh(s) is log(2 s) to the last digit.
_LONG = 20.0
# Closer points count as identical, and the angles between them have no gradient.
_TINY = 1e-30
# Radii beyond have no aperture left in float32.
_FAR = 40.0


@vectorwise
def lorentz_to_polar(points: Tensor, radius_squared: float = 1.0) -> Tensor:
    """Convert points of the hyperboloid to polar points; only the space part is read, so the constraint holds exactly.

    Args:
        points: `(..., d + 1)`, time first, floating.
        radius_squared: R², positive.

    Returns:
        `(..., d + 2)` polar points, in float64 if `points` is, else in float32.
    """
    direction, length = directions(space_part(points))
    return _polar(direction, asinh(saturated(length / root(radius_squared))))


@vectorwise
def polar_to_lorentz(polar: Tensor, radius_squared: float = 1.0) -> Tensor:
    """Convert polar points to points of the hyperboloid, which end at distance 87 R in float32 and 708 R in float64.

    Args:
        polar: `(..., d + 2)`.
        radius_squared: R², positive.

    Returns:
        `(..., d + 1)`, time first.
    """
    direction, rho = split_polar(polar)
    rho = _within_range(rho)
    return saturated(torch.cat([torch.cosh(rho), torch.sinh(rho) * direction], dim=-1) * root(radius_squared))


def _within_range(rho: Tensor) -> Tensor:
    return rho.clamp(max=math.log(torch.finfo(rho.dtype).max) - _ROOM)


@vectorwise
def uneven_terms(polar: Tensor) -> Tensor:
    """Return what inner products of hyperboloid points lack where rounding has left directions that are not of norm 1.

    By the law of cosines, as `half_chord` applies it to the stored directions u and v, minus the hyperbolic cosine of a
    distance is <x, y> - sinh(rho_x) sinh(rho_y) (a + b), with a = (|u|² - 1) / 2 and b = (|v|² - 1) / 2.

    Args:
        polar: `(..., d + 2)`.

    Returns:
        `(..., 2)`: sinh(rho) and sinh(rho) a. The product of one with the other of two points, both ways, is that term.
    """
    direction, rho = split_polar(polar)
    uneven = (direction.to(widest(direction)).square().sum(dim=-1, keepdim=True) - 1) / 2
    long = torch.sinh(_within_range(rho))
    return torch.cat([long, long * uneven.to(rho.dtype)], dim=-1)


@vectorwise
def poincare_to_polar(points: Tensor, c: float = 1.0) -> Tensor:
    """Convert points of the ball to polar points: rho = 2 artanh(sqrt(c) |x|).

    Args:
        points: `(..., d)` of norm below 1 / sqrt(c), floating.
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., d + 2)` polar points, infinite or NaN for points outside of the ball.
    """
    direction, length = directions(points)
    return _polar(direction, 2 * torch.atanh(length * root(c)))


@vectorwise
def tangent_to_polar(tangents: Tensor, c: float = 1.0) -> Tensor:
    """Convert tangent vectors at the origin of the ball to the polar points of exp_0: rho = 2 sqrt(c) |u|.

    No coordinate of the ball is computed on the way, so far points are as exact as near ones.

    Args:
        tangents: `(..., d)`, floating; exp_0(u) is at distance 2 |u| from the origin, whatever the curvature.
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., d + 2)` polar points, at most `FARTHEST` from the origin, in float64 if `tangents` is, else in float32.
    """
    direction, length = directions(tangents)
    return _polar(direction, (2 * root(c) * length).clamp(max=FARTHEST))


@vectorwise
def polar_to_poincare(polar: Tensor, c: float = 1.0) -> Tensor:
    """Convert polar points to points of the ball; in float32 all norms are 1 / sqrt(c) from rho = 17 on.

    Args:
        polar: `(..., d + 2)`.
        c: Minus the sectional curvature, positive.

    Returns:
        `(..., d)`.
    """
    direction, rho = split_polar(polar)
    return torch.tanh(rho / 2) * direction / root(c)


@full_precision
def ball_centres(polar: Tensor, chord: Tensor, c: float = 1.0) -> Tensor:
    """Return the Euclidean centres of hyperbolic balls, which are also balls in the Poincaré model.

    So the nearest documents of a query are not those nearest to it in L2, but those nearest in L2 to the centre of the
    ball that contains its nearest `k`.

    Args:
        polar: `(Q, d + 2)` their hyperbolic centres.
        chord: `(Q,)` sinh(radius / 2R) of the balls, as `half_chord` gives it; may be infinite.
        c: Minus the sectional curvature, positive.

    Returns:
        `(Q, d)` points of the Poincaré ball.
    """
    check_fits("chord", chord, polar.shape[:-1])
    direction, rho = split_polar(polar)
    radius = 2 * asinh(chord)[..., None]
    # The line from the origin through the query meets the sphere at these two points.
    ends = torch.tanh((rho - radius) / 2) + torch.tanh((rho + radius) / 2)
    return ends / 2 * direction / root(c)


@vectorwise
def split_polar(polar: Tensor) -> tuple[Tensor, Tensor]:
    """Return directions `(..., d)` and distances from the origin `(..., 1)` of polar points, float32 or float64."""
    if polar.shape[-1] <= POLAR_EXTRA:
        raise InputError(f"polar points must have at least {POLAR_EXTRA + 1} numbers; given {tuple(polar.shape)}")
    # A sum over an axis of two takes ten times as long.
    return polar[..., :-POLAR_EXTRA], polar[..., -POLAR_EXTRA:-1] + polar[..., -1:]


@pairwise
def half_chord(queries: Tensor, documents: Tensor) -> Tensor:
    """Return s = sinh(distance / 2R) of all pairs, from which every hyperbolic similarity follows.

    s² = sinh²((rho_x - rho_y) / 2) + sinh(rho_x) sinh(rho_y) |u_x - u_y|² / 4, the hyperbolic law of cosines without
    its cancellation: every term is positive and is computed from differences, so near ties survive float32.

    Args:
        queries: `(Q, d + 2)` polar points.
        documents: `(N, d + 2)` polar points.

    Returns:
        `(Q, N)`, at least 0.
    """
    return _half_chord(*_pairs(queries, documents))


@full_precision
def half_chord_own(queries: Tensor, documents: Tensor) -> Tensor:
    """Return sinh(distance / 2R) between each query and documents of its own.

    Args:
        queries: `(Q, d + 2)` polar points.
        documents: `(Q, n, d + 2)` polar points.

    Returns:
        `(Q, n)`, at least 0.
    """
    return _half_chord(*_own(queries, documents))


@pairwise
def polar_distance(queries: Tensor, documents: Tensor, radius_squared: float = 1.0) -> Tensor:
    """Return the geodesic distances of all pairs, at any radius: half chords of float32 end at 178 R, distances do not.

    Args:
        queries: `(Q, d + 2)` polar points.
        documents: `(N, d + 2)` polar points.
        radius_squared: R², positive.

    Returns:
        `(Q, N)`, at least 0.
    """
    return 2 * root(radius_squared) * _half_distance(*_pairs(queries, documents))


@full_precision
def polar_distance_own(queries: Tensor, documents: Tensor, radius_squared: float = 1.0) -> Tensor:
    """Return the geodesic distances between each query and documents of its own, at any radius.

    Args:
        queries: `(Q, d + 2)` polar points.
        documents: `(Q, n, d + 2)` polar points.
        radius_squared: R², positive.

    Returns:
        `(Q, n)`, at least 0.
    """
    return 2 * root(radius_squared) * _half_distance(*_own(queries, documents))


@full_precision
def polar_between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return the points that divide the geodesics from some points to others.

    They are sinh((1 - t) D) / sinh(D) x + sinh(t D) / sinh(D) y on the hyperboloid, for points x and y at the distance
    D. Both terms are positive, and they are computed by their logarithms, so far points neither cancel nor overflow.
    No gradient flows, since only compiled queries are moved, and logarithms have none at the origin.

    Args:
        first: `(Q, d + 2)` polar points.
        second: `(Q, d + 2)` polar points.
        share: `(Q,)` how far to go, t in [0, 1] of the way.

    Returns:
        `(Q, d + 2)` polar points, in float64 if one of the points is, else in float32.
    """
    if first.is_complex() or second.is_complex():
        raise InputError(f"points are real numbers, not {first.dtype} and {second.dtype}")
    check_fits("second", second, first.shape)
    check_fits("share", share, first.shape[:-1])
    (u, rho_u), (v, rho_v) = split_polar(first.detach().double()), split_polar(second.detach().double())
    apart = 2 * _half_distance(norm(u - v) / 2, rho_u, rho_v)
    same = apart <= _TINY
    apart, part = torch.where(same, 1, apart), share.detach().double()[..., None]
    along = torch.cat(
        [_log_sinh((1 - part) * apart) + _log_sinh(rho_u), _log_sinh(part * apart) + _log_sinh(rho_v)], -1
    )
    largest = along.amax(dim=-1, keepdim=True).clamp_min(_NONE)  # both are 0 where the point is the origin
    terms = (along - largest).exp()
    direction, length = directions(terms[..., :1] * u + terms[..., 1:] * v)
    long = length.log() + largest - _log_sinh(apart)  # the logarithm of sinh(rho)
    rho = torch.where(long > _LONG, long + math.log(2), torch.asinh(long.clamp(max=_LONG).exp()))
    dtype = torch.promote_types(first.dtype, second.dtype)
    return torch.where(same, first.detach(), _polar(direction, rho).to(dtype))


def _pairs(queries: Tensor, documents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return |u - v| / 2 of all pairs, and radii that broadcast to it."""
    (u, rho_u), (v, rho_v) = split_polar(queries), split_polar(documents)
    return torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist") / 2, rho_u, rho_v.T


def _own(queries: Tensor, documents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `_pairs` does, of each query and documents of its own."""
    (u, rho_u), (v, rho_v) = split_polar(queries), split_polar(documents)
    return norm(u[:, None] - v)[..., 0] / 2, rho_u, rho_v[..., 0]


def _half_chord(angular: Tensor, rho_u: Tensor, rho_v: Tensor) -> Tensor:
    # The root of sinh(rho), as sinh itself overflows at half the distance.
    root_u, root_v = _root_sinh(rho_u), _root_sinh(rho_v)
    if torch.is_grad_enabled() and (angular.requires_grad or rho_u.requires_grad or rho_v.requires_grad):
        return _smooth_half_chord(torch.sinh((rho_u - rho_v) / 2), angular, root_u, root_v)
    # In brackets, so that the product is the same both ways.
    return saturated(torch.hypot(torch.sinh((rho_u - rho_v) / 2), angular * saturated(root_u * root_v)))


def _half_distance(angular: Tensor, rho_u: Tensor, rho_v: Tensor) -> Tensor:
    """Return distance / 2R = asinh(half chord); by logarithms where the half chord might overflow."""
    farthest = 2 * (math.log(torch.finfo(angular.dtype).max) - _ROOM)  # s <= sinh((rho_u + rho_v) / 2)
    # On a GPU, the check would synchronise, so both are computed.
    trained = torch.is_grad_enabled() and (rho_u.requires_grad or rho_v.requires_grad)
    waits = angular.device.type == "cpu" or not trained
    if waits and (not angular.numel() or float((rho_u.max() + rho_v.max()).detach()) <= farthest):
        return asinh(_half_chord(angular, rho_u, rho_v))
    far = rho_u + rho_v > farthest
    near = asinh(_half_chord(*(torch.where(far, 0, part) for part in (angular, rho_u, rho_v))))
    long = _far_half_distance(*(torch.where(far, part, 1) for part in (angular, rho_u, rho_v)))
    return torch.where(far, long.to(near.dtype), near)


def _far_half_distance(angular: Tensor, rho_u: Tensor, rho_v: Tensor) -> Tensor:
    angular, rho_u, rho_v = (part.to(widest(part)) for part in (angular, rho_u, rho_v))
    apart = (rho_u - rho_v).abs()
    # Where one of the terms is 0, its logarithm is far below any other's and has no gradient.
    radial = torch.where(apart == 0, _NONE, _log_sinh(torch.where(apart == 0, 1, apart / 2)))
    aligned = (angular == 0) | (rho_u <= 0) | (rho_v <= 0)
    angular, rho_u, rho_v = (torch.where(aligned, 1, part) for part in (angular, rho_u, rho_v))
    across = torch.where(aligned, _NONE, angular.log() + (_log_sinh(rho_u) + _log_sinh(rho_v)) / 2)
    chord = torch.logaddexp(2 * radial, 2 * across) / 2
    return torch.where(chord > _LONG, chord + math.log(2), torch.asinh(chord.clamp(max=_LONG).exp()))


def _log_sinh(values: Tensor) -> Tensor:
    return values + torch.log(-torch.expm1(-2 * values)) - math.log(2)


def _root_sinh(rho: Tensor) -> Tensor:
    rho = rho.clamp(max=2 * (math.log(torch.finfo(rho.dtype).max) - _ROOM))
    falling = -torch.expm1(-2 * rho) / 2
    origin = falling <= 0  # where the root's gradient is infinite
    return torch.exp(rho / 2) * torch.where(origin, 0, torch.where(origin, 1, falling).sqrt())


def _smooth_half_chord(radial: Tensor, angular: Tensor, root_u: Tensor, root_v: Tensor) -> Tensor:
    """Return the same numbers, with gradients that are finite where two points are one."""
    across = angular * saturated(root_u * root_v)
    same = (radial == 0) & (across == 0)  # a distance has a kink at 0; its gradient there is taken to be 0
    chord = torch.hypot(torch.where(same, torch.ones_like(radial), radial), across)
    return saturated(torch.where(same, torch.zeros_like(chord), chord))


def _polar(direction: Tensor, rho: Tensor) -> Tensor:
    coarse = rho.half().to(rho.dtype)
    return torch.cat([direction, coarse, rho - coarse], dim=-1)


@vectorwise
def half_aperture(polar: Tensor, *, least_radius: float = 0.1) -> Tensor:
    """Return half the angle at the tip of each point's cone: asin(2 K / sinh rho), narrower farther out.

    Args:
        polar: `(..., d + 2)`.
        least_radius: K, positive: where 2 K >= sinh rho the cone is a half space.

    Returns:
        `(...,)` angles in (0, pi / 2].
    """
    return _half_aperture(split_polar(polar)[1][..., 0], least_radius)


@vectorwise
def exterior_angle(tip: Tensor, polar: Tensor) -> Tensor:
    """Return the angle at `tip` between the ray from the origin, continued beyond it, and the geodesic to a point.

    Args:
        tip: `(..., d + 2)`.
        polar: `(..., d + 2)`, broadcast against `tip`.

    Returns:
        `(...,)` angles in [0, pi]; 0 for equal points.
    """
    u, rho = split_polar(tip)
    v, sigma = split_polar(polar)
    return _exterior_angle(torch.linalg.vector_norm(u - v, dim=-1), rho[..., 0], sigma[..., 0])


@pairwise
def cone_excess(queries: Tensor, documents: Tensor, *, least_radius: float = 0.1) -> Tensor:
    """Return the angles by which queries lie outside of the cones of documents: exterior angle minus half aperture.

    Args:
        queries: `(Q, d + 2)` polar points.
        documents: `(N, d + 2)` polar points, the tips.
        least_radius: K of `half_aperture`.

    Returns:
        `(Q, N)` angles in [-pi / 2, pi]; at most 0 where the document's cone contains the query.
    """
    return _cone_excess(*_pairs(queries, documents), least_radius)


@full_precision
def cone_excess_own(queries: Tensor, documents: Tensor, *, least_radius: float = 0.1) -> Tensor:
    """Return what `cone_excess` does, for each query and documents of its own.

    Args:
        queries: `(Q, d + 2)` polar points.
        documents: `(Q, n, d + 2)` polar points, the tips.
        least_radius: K of `half_aperture`.

    Returns:
        `(Q, n)` angles in [-pi / 2, pi].
    """
    return _cone_excess(*_own(queries, documents), least_radius)


def _cone_excess(angular: Tensor, rho: Tensor, tip: Tensor, least_radius: float) -> Tensor:
    return _exterior_angle(2 * angular, tip, rho) - _half_aperture(tip, least_radius)


def _half_aperture(rho: Tensor, least_radius: float) -> Tensor:
    # Written with the arctangent, whose gradient is finite where the arcsine's is not.
    long = torch.sinh(rho.clamp(max=_FAR))
    inside = (long - 2 * least_radius).clamp_min(0) * (long + 2 * least_radius)
    touching = inside <= 0
    root = torch.where(touching, torch.ones_like(inside), inside).sqrt()
    angle = torch.atan2(torch.full_like(root, 2 * least_radius), root)
    return torch.where(touching, torch.full_like(angle, torch.pi / 2), angle)


def _exterior_angle(chord: Tensor, rho: Tensor, sigma: Tensor) -> Tensor:
    """Return the exterior angle at points of radius `rho`, given the chords to the directions of others."""
    chord = chord.clamp(max=2)  # 2 sin(angle at the origin / 2)
    # The point after the boost that moves the tip to the origin, along the ray and across it, both divided by
    # cosh(rho) cosh(sigma). 1 - cos is taken from the chord and the difference of radii before its exponential, so
    # that nothing large cancels and nothing overflows.
    falling = torch.exp(-2 * torch.minimum(rho, sigma)) * torch.expm1(-2 * (sigma - rho).abs())
    shared = (1 + torch.exp(-2 * rho)) * (1 + torch.exp(-2 * sigma))
    along = 2 * torch.sign(rho - sigma) * falling / shared - torch.tanh(sigma) * chord.square() / 2
    across = (
        torch.tanh(sigma) * chord * (1 - chord.square() / 4).clamp_min(_TINY).sqrt() / torch.cosh(rho.clamp(max=_FAR))
    )
    # Near the origin both are so small that their squares, in the arctangent's derivative, vanish in float32.
    size = torch.maximum(across.abs(), along.abs()).detach()
    same = size < _TINY
    size = torch.where(same, 1, size)
    across, along = torch.where(same, 0, across / size), torch.where(same, 1, along / size)
    return torch.where(same, 0, torch.atan2(across, along))
