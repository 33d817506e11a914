"""Linear maps between hyperboloids: all coordinates in, a space part out, its time made anew."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hyperseek.geometry import lorentz_from_space
from hyperseek.nn.lorentz._rotary import Rotary, rotate


class LorentzLinear(nn.Module):
    """Map points to points: a linear map of all coordinates, time included, gives the space part.

    Args:
        size: Coordinates of a point, time included.
        out_size: Coordinates of a mapped point, time included.
        bias: Whether the map has a bias.
    """

    def __init__(self, size: int, out_size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(size, out_size - 1, bias=bias)
        initialise(self.linear)

    def space(self, points: Tensor) -> Tensor:
        """Return the space part `(..., out_size - 1)` of mapped points, in the precision of the matrix product."""
        # Points are float32 at least; weights that were cast to half precision want their inputs alike.
        mapped: Tensor = self.linear(points.to(self.linear.weight.dtype))
        return mapped

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Map `(..., size)` points to `(..., out_size)` points."""
        return lorentz_from_space(self.space(points), radius_squared)


class LorentzMultiHeadLinear(nn.Module):
    """Map points to one point of a smaller space for each head.

    Args:
        size: Coordinates of a point.
        head_size: Coordinates of a head's points, time included.
        heads: Number of heads.
        bias: Whether the map has a bias.
    """

    def __init__(self, size: int, head_size: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.linear = nn.Linear(size, (head_size - 1) * heads, bias=bias)
        initialise(self.linear)

    def space(self, points: Tensor, rotary: Rotary | None = None) -> Tensor:
        """Return the space part `(B, H, S, head_size - 1)`, rotated to its positions."""
        mapped = self.linear(points.to(self.linear.weight.dtype)).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        return mapped if rotary is None else rotate(mapped, rotary)

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0, rotary: Rotary | None = None) -> Tensor:
        """Map `(B, S, size)` points to `(B, H, S, head_size)` points; a rotation leaves their time alone."""
        return lorentz_from_space(self.space(points, rotary), radius_squared)


def initialise(linear: nn.Linear) -> None:
    """Draw weights as the original does: uniform, of gain sqrt(2), biases zero."""
    nn.init.xavier_uniform_(linear.weight, gain=math.sqrt(2))
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
