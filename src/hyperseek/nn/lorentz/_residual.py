"""The residual connection of the hyperboloid: the weighted sum of two points, put back onto it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperseek.geometry import lorentz_from_space, lorentz_inner
from hyperseek.nn.lorentz._norms import wide_dtype

# What <a, a> may not fall below where a negative weight lets it: the root of it is divided by.
_SMALLEST = 1e-6


class LorentzResidual(nn.Module):
    """Return `x + w y`, scaled back onto the hyperboloid: a point between the two for positive w.

    "Lorentzian Residual Neural Networks", arXiv 2412.14695.

    Args:
        scale: Factor of the space part afterwards; the blocks of HypRAG use 4 sqrt(d) in front of a norm. 1 for none.
        weight: Where w starts.
    """

    def __init__(self, *, scale: float = 1.0, weight: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.w_y = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor, y: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Add `(..., d)` points."""
        dtype = wide_dtype(x)
        x, y, weight = x.to(dtype), y.to(dtype), self.w_y.to(dtype)
        # -<a, a> from <x, x> = <y, y> = -R² and -<x, y> >= R², which far from the origin are exact while the inner
        # product of a with itself is all rounding.
        across = torch.clamp_min(-lorentz_inner(x, y), radius_squared)[..., None]
        square = radius_squared * (1 + weight.square()) + 2 * weight * across
        factor = (radius_squared / square.abs().clamp_min(_SMALLEST)).sqrt()
        return lorentz_from_space((x + weight * y)[..., 1:] * factor * self.scale, radius_squared)
