"""Half chords of the hyperboloid, s = sinh(distance / 2R), and their gradients, without cancellation.

With x and y the space parts over R, a direction u, v and a distance rho, sigma from the origin each:

    s² = sinh²((rho - sigma) / 2) + sinh(rho) sinh(sigma) |u - v|² / 4
    ds²/dx = (u sinh(rho - sigma) / cosh(rho) + sinh(sigma) (u - v)) / 2

Every term is a difference of like things, so both are as exact as the coordinates. Autograd of the first line would get
the origin wrong, where rho and u have kinks that only cancel in the sum; the second line is right there for any u.

Shapes: `n` and `m` points, `d` dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyperseek.geometry._precision import full_precision
from hyperseek.geometry._radial import asinh, directions, norm

# Below, points are one point: a distance has a kink there, and its gradient is taken to be 0.
_SAME = 1e-30
# sin² of half an angle that float64's product of unit vectors leaves of none, for each root of a dimension; such angles
# are of the size of float32's rounding.
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
        # The roots before the product, which overflows at half the distance, and in brackets, for symmetry.
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
    """Return |u - v| / 2 of all pairs: sines of half the angles."""
    if x.dtype == torch.float64 or x.device.type == "mps":  # which has no float64
        (u, _), (v, _) = directions(x), directions(y)
        return torch.cdist(u, v, compute_mode="donot_use_mm_for_euclid_dist") / 2
    # One product in float64 is as exact as differences in float32, and many times faster in many dimensions.
    (u, _), (v, _) = directions(x.double()), directions(y.double())
    if min(x.shape[-2], y.shape[-2]) == 1:  # differences cost no more, and know no smallest angle
        return (norm(u - v).mT if x.shape[-2] == 1 else norm(u - v)).to(x.dtype) / 2
    squared = (1 - u @ v.mT) / 2
    return torch.where(squared > _ALIGNED * x.shape[-1] ** 0.5, squared, 0).sqrt().to(x.dtype)


@full_precision
def _backward(x: Tensor, y: Tensor, chord: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    if x.dtype == torch.float32 and x.device.type != "mps":  # as in the forward pass: sums of directions cancel
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
