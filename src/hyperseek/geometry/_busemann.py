"""exp of the Busemann function of the hyperboloid: x₀ - <x, e>, how far points lie from the horizon's point e.

Far out both terms are equal in all digits that float32 has. It is computed from its space part `x` (over R), which has
the direction u and the length r, as 1 / (x₀ + r) + r |u - e|² / 2, and its gradient likewise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hyperseek.geometry._precision import full_precision
from hyperseek.geometry._radial import directions


def horizon_gap(x: Tensor, e: Tensor) -> Tensor:
    """Return sqrt(1 + |x|²) - <x, e>.

    Args:
        x: `(..., d)` space parts over R.
        e: `(..., d)` unit vectors of the same axes, or of size 1 in those but the last; taken as constants.

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
    # x / x₀ - e, by differences; right at the origin, too, where u may be anything.
    u, length, time = _parts(x)
    return gradient[..., None] * ((u - e) - u / (time * (time + length)))


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    u, length = directions(x)
    return u, length, torch.hypot(length, torch.ones_like(length))
