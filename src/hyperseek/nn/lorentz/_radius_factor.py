"""A distance from the origin of its own for each token."""

from __future__ import annotations

from torch import Tensor, nn

from hyperseek.geometry import lorentz_from_space
from hyperseek.nn.lorentz._norms import wide_dtype

# A factor between 1/e³ and e³: seldom reached, and the lift of a point so far out is still exact.
_BOUND = 3.0


class LorentzRadiusFactor(nn.Module):
    """Multiply each point's space part by a factor read from the point itself; a new one changes nothing.

    A norm at the end of an encoder leaves all tokens about equally far from the origin, where a hierarchy would want
    general texts near it and special ones far out. This is our own remedy; the original has none.

    Args:
        size: Coordinates of a point, time included.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Move `(..., d)` points along the lines from the origin through them."""
        space = points[..., 1:].to(wide_dtype(points))
        logarithm = self.linear(points.to(self.linear.weight.dtype)).to(space.dtype)
        return lorentz_from_space(space * (_BOUND * (logarithm / _BOUND).tanh()).exp(), radius_squared)
