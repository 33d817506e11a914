"""Geometry is computed in float32 or float64, whatever autocast says and whatever half precision comes in.

Half precision has three digits: enough for a coordinate, not for the difference of two squares that a distance is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from hyperseek._errors import InputError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def full_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Widen a function's floating tensors to one precision, float64 if any but a scalar has it, and suspend autocast.

    Args:
        function: Of tensors, numbers and None.

    Returns:
        The function.
    """

    @functools.wraps(function)
    def widened(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        points = [tensor for tensor in tensors if tensor.dim() > 0] or tensors
        dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in points) else torch.float32

        def widen(value: object) -> object:
            return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

        wide_args, wide_kwargs = map(widen, args), {name: widen(value) for name, value in kwargs.items()}
        device = points[0].device.type if points else "cpu"
        if not torch.is_autocast_enabled(device):
            return function(*wide_args, **wide_kwargs)  # type: ignore[arg-type]
        with torch.autocast(device, enabled=False):
            return function(*wide_args, **wide_kwargs)  # type: ignore[arg-type]

    return widened


def root(radius_squared: float | Tensor) -> float | Tensor:
    """Return R; differentiable where R² is a tensor.

    Args:
        radius_squared: R², or `c`, of which the root is needed likewise.

    Returns:
        The positive root.

    Raises:
        InputError: A number that is not positive and finite. Tensors are not looked into, which would wait for a GPU.
    """
    if isinstance(radius_squared, Tensor):
        if radius_squared.dim():
            raise InputError(
                f"the curvature must be a number or a 0-dim tensor, not {radius_squared.dim()} axes of them"
            )
        return radius_squared.sqrt()
    if not 0 < radius_squared < math.inf:
        raise InputError(f"the curvature is given as a positive finite number, not as {radius_squared}")
    return math.sqrt(radius_squared)
