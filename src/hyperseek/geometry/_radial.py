"""Functions that act on a vector's length alone, with gradients that are right at zero as well.

f(|x|) x / |x| is smooth where f is odd, though |x| is not: so each function here is f(r) / r, by its series near 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_SMALL = 1e-3  # here the first omitted term of every series is below float64's rounding


def norm(vectors: Tensor) -> Tensor:
    """Return lengths `(..., 1)` of vectors `(..., d)`; their gradient at 0 is taken to be 0."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return length


def directions(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors `(..., d)` and lengths `(..., 1)`; too short ones to have a square have the direction 0."""
    length = norm(vectors)
    short = length < torch.finfo(vectors.dtype).tiny ** 0.5 * 16
    return torch.where(short, 0, vectors / torch.where(short, 1, length)), length


def sinh_ratio(radius: Tensor) -> Tensor:
    """Return sinh(r) / r. Beyond the `farthest` radius sinh stays at its value there, so nothing overflows."""
    limit = farthest(radius.dtype)
    return _ratio(lambda r: torch.sinh(r.clamp(max=limit)), radius, (1 / 6, 1 / 120))


def asinh_ratio(radius: Tensor) -> Tensor:
    """Return asinh(r) / r."""
    return _ratio(torch.asinh, radius, (-1 / 6, 3 / 40))


def tanh_ratio(radius: Tensor) -> Tensor:
    """Return tanh(r) / r."""
    return _ratio(torch.tanh, radius, (-1 / 3, 2 / 15))


def atanh_ratio(radius: Tensor) -> Tensor:
    """Return artanh(r) / r; from the last number below 1 on, artanh stays at its value there."""
    return _ratio(lambda r: torch.atanh(r.clamp(max=below_one(r.dtype))), radius, (1 / 3, 1 / 5))


def farthest(dtype: torch.dtype) -> float:
    """Return the distance from the origin, in units of R, up to which squares of coordinates are finite."""
    return 300.0 if dtype == torch.float64 else 40.0


def below_one(dtype: torch.dtype) -> float:
    """Return the largest number below 1."""
    return 1 - torch.finfo(dtype).eps / 2


def _ratio(function: Callable[[Tensor], Tensor], radius: Tensor, series: tuple[float, float]) -> Tensor:
    small = radius < _SMALL
    # Both branches are differentiated, so each gets numbers that it can take.
    square = torch.where(small, radius, 0).square()
    far = torch.where(small, 1, radius)
    return torch.where(small, 1 + square * (series[0] + square * series[1]), function(far) / far)
