"""The gated feed-forward layer of a block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hyperseek.geometry import lorentz_from_space
from hyperseek.nn.lorentz._linear import LorentzLinear


class LorentzFeedForward(nn.Module):
    """SwiGLU of the space parts: `w2(lift(silu(w1 x) * w3 x))`.

    Args:
        size: Coordinates of a point.
        inner_size: Coordinates of a point between the two maps, time included.
    """

    def __init__(self, size: int, inner_size: int) -> None:
        super().__init__()
        self.w1 = LorentzLinear(size, inner_size)
        self.w2 = LorentzLinear(inner_size, size)
        self.w3 = LorentzLinear(size, inner_size)

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Map `(..., d)` points to `(..., d)` points."""
        inner = F.silu(self.w1.space(points)) * self.w3.space(points)
        mapped: Tensor = self.w2(lorentz_from_space(inner, radius_squared), radius_squared)
        return mapped
