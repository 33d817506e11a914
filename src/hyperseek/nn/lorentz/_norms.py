"""Norms: the space part is normalised, its time made anew.

A norm of this kind leaves all points about equally far from the origin: sqrt(d - 1) in space before gains are trained.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperseek._errors import UnknownNameError
from hyperseek.geometry import lorentz_from_space


class LorentzNorm(nn.Module):
    """Base of the norms: subclasses say what becomes of the space part."""

    def normalise(self, space: Tensor) -> Tensor:
        """Return the new space part, float32 or wider as given."""
        raise NotImplementedError

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Normalise `(..., d)` points."""
        space = points[..., 1:]
        return lorentz_from_space(self.normalise(space.to(wide_dtype(space))), radius_squared)


class LorentzLayerNorm(LorentzNorm):
    """Layer norm.

    Args:
        size: Coordinates of a point, time included.
        epsilon: Added to the variance.
    """

    def __init__(self, size: int, *, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.layer = nn.LayerNorm(size - 1, eps=epsilon)

    def normalise(self, space: Tensor) -> Tensor:
        """Return the layer norm of the space part."""
        weight, bias = self.layer.weight.to(space.dtype), self.layer.bias.to(space.dtype)
        return F.layer_norm(space, space.shape[-1:], weight, bias, self.layer.eps)


class LorentzRMSNorm(LorentzNorm):
    """Root-mean-square norm.

    Args:
        size: Coordinates of a point, time included.
        epsilon: Added to the mean square.
    """

    def __init__(self, size: int, *, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(size - 1))

    def normalise(self, space: Tensor) -> Tensor:
        """Return the space part over its root mean square."""
        return F.rms_norm(space, space.shape[-1:], self.weight.to(space.dtype), self.epsilon)


class LorentzDynamicTanh(LorentzNorm):
    """`gamma * tanh(alpha * x) + beta`: bounds the space part without making all lengths alike.

    Args:
        size: Coordinates of a point, time included.
        alpha: Where the factor in the tanh starts.
    """

    def __init__(self, size: int, *, alpha: float = 0.5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), alpha))
        self.gamma = nn.Parameter(torch.ones(size - 1))
        self.beta = nn.Parameter(torch.zeros(size - 1))

    def normalise(self, space: Tensor) -> Tensor:
        """Return the bounded space part."""
        alpha, gamma, beta = (part.to(space.dtype) for part in (self.alpha, self.gamma, self.beta))
        return gamma * torch.tanh(alpha * space) + beta


NORMS: MappingProxyType[str, Callable[[int], LorentzNorm]] = MappingProxyType(
    {"layer_norm": LorentzLayerNorm, "rms_norm": LorentzRMSNorm, "dyt_norm": LorentzDynamicTanh}
)
"""The norms by the names that configurations use."""


def make_norm(name: str, size: int) -> LorentzNorm:
    """Return a new norm of points of `size` coordinates; UnknownNameError where there is none of that name."""
    if name not in NORMS:
        raise UnknownNameError("norm_layer", name, NORMS)
    return NORMS[name](size)


def wide_dtype(values: Tensor) -> torch.dtype:
    """Return the precision that geometry is done in: float64 for float64, else float32."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32
