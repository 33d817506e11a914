"""Entailment cones of hyperbolic space: what is more general holds what is more specific in a cone behind it.

"Hyperbolic Entailment Cones" (arXiv 1804.01882), in the Lorentz model as in MERU (arXiv 2304.09172). Angles and polar
points know no curvature, so neither do these functions. Shapes: polar points `(..., d + 2)`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperseek.geometry._polar import split_polar
from hyperseek.geometry._precision import vectorwise


@vectorwise
def half_aperture(polar: Tensor, *, least_radius: float = 0.1) -> Tensor:
    """Return half the angle at the tip of each point's cone: asin(2 K / sinh rho), narrower farther out.

    Args:
        polar: `(..., d + 2)`.
        least_radius: K, positive: where 2 K >= sinh rho the cone is a half space.

    Returns:
        `(...,)` angles in (0, pi / 2].
    """
    _, rho = split_polar(polar)
    # Written with the arctangent, whose gradient is finite where the arcsine's is not.
    long = torch.sinh(rho[..., 0].clamp(max=_FAR))
    inside = (long - 2 * least_radius).clamp_min(0) * (long + 2 * least_radius)
    touching = inside <= 0
    root = torch.where(touching, torch.ones_like(inside), inside).sqrt()
    angle = torch.atan2(torch.full_like(root, 2 * least_radius), root)
    return torch.where(touching, torch.full_like(angle, torch.pi / 2), angle)


@vectorwise
def exterior_angle(tip: Tensor, polar: Tensor) -> Tensor:
    """Return the angle at `tip` between the ray from the origin that goes on behind it and the way to a point.

    Args:
        tip: `(..., d + 2)`.
        polar: `(..., d + 2)`, broadcast against `tip`.

    Returns:
        `(...,)` angles in [0, pi]; 0 where both are one point.
    """
    u, rho = split_polar(tip)
    v, sigma = split_polar(polar)
    rho, sigma = rho[..., 0], sigma[..., 0]
    chord = torch.linalg.vector_norm(u - v, dim=-1).clamp(max=2)  # 2 sin(angle at the origin / 2)
    # The point after the boost that moves the tip to the origin, along the ray and across it, both divided by
    # cosh(rho) cosh(sigma). 1 - cos is taken from the chord and the difference of radii before its exponential, so
    # that nothing large cancels and nothing overflows.
    falling = torch.exp(-2 * torch.minimum(rho, sigma)) * torch.expm1(-2 * (sigma - rho).abs())
    shared = (1 + torch.exp(-2 * rho)) * (1 + torch.exp(-2 * sigma))
    along = 2 * torch.sign(rho - sigma) * falling / shared - torch.tanh(sigma) * chord.square() / 2
    across = (
        torch.tanh(sigma) * chord * (1 - chord.square() / 4).clamp_min(_TINY).sqrt() / torch.cosh(rho.clamp(max=_FAR))
    )
    # Near the origin both are so small that their squares, which the arctangent's derivative has, vanish in float32.
    size = torch.maximum(across.abs(), along.abs()).detach()
    same = size < _TINY
    size = torch.where(same, 1, size)
    across, along = torch.where(same, 0, across / size), torch.where(same, 1, along / size)
    return torch.where(same, 0, torch.atan2(across, along))


_TINY = 1e-30  # where both points are one; angles between points that are nearer to each other have no gradient
_FAR = 40.0  # radii beyond have no aperture left in float32
