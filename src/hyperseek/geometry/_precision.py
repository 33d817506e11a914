"""Geometry is computed in float32 or float64, whatever autocast says and whatever half precision comes in.

Half precision has three digits: enough for a coordinate, not for the difference of two squares that a distance is.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from hyperseek.errors import InputError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def full_precision(function: Callable[_P, _R], *, axes: int = 0) -> Callable[_P, _R]:
    """Widen a function's floating tensors to one precision, float64 if any but a scalar has it, and suspend autocast.

    Args:
        function: Of tensors, numbers and None.
        axes: Last axes that vectors must have, 0 to check nothing. With 1 or 2 all tensors but masks, weights and
            curvatures are vectors, which must be of one width and device, and of batches that fit each other.

    Returns:
        The function; it raises InputError where vectors do not fit.
    """
    names = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def widened(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if axes:
            _check_vectors({**dict(zip(names, args, strict=False)), **kwargs}, axes)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        points = [tensor for tensor in tensors if tensor.dim() > 0] or tensors
        dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in points) else torch.float32

        def widen(name: str, value: object) -> object:
            # Masks stay what they are; whole numbers that are coordinates do not.
            numbers = isinstance(value, Tensor) and (value.is_floating_point() or (axes and name != "mask"))
            return value.to(dtype) if isinstance(value, Tensor) and numbers else value

        wide_args = [widen(name, value) for name, value in zip(names, args, strict=False)]
        wide_kwargs = {name: widen(name, value) for name, value in kwargs.items()}
        device = points[0].device.type if points else "cpu"
        if not torch.is_autocast_enabled(device):
            return function(*wide_args, **wide_kwargs)  # type: ignore[arg-type]
        with torch.autocast(device, enabled=False):
            return function(*wide_args, **wide_kwargs)  # type: ignore[arg-type]

    return widened


def vectorwise(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return `full_precision` of a function of vectors `(..., d)` that are taken one by one."""
    return full_precision(function, axes=1)


def pairwise(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return `full_precision` of a function of all pairs of vectors, `(..., n, d)` and `(..., m, d)`."""
    return full_precision(function, axes=2)


def check_fits(name: str, given: Tensor, shape: torch.Size) -> None:
    """Raise InputError unless a tensor, such as a mask, broadcasts to `shape`."""
    offset = len(shape) - given.dim()
    if offset < 0 or any(size not in (1, shape[offset + axis]) for axis, size in enumerate(given.shape)):
        raise InputError(f"{name} has the shape {tuple(given.shape)}, which does not fit points of {tuple(shape)}")


def bounded_gradient(values: Tensor) -> Tensor:
    """Return values whose gradient is finite: its infinities are the largest number, and what is undefined is 0.

    For what is the same for many points, of which those far beyond all that float32 tells apart would spoil the others'
    gradients. Points themselves keep what they get, so that a loss that diverges is seen.
    """
    bounded: Tensor = _BoundedGradient.apply(values)  # type: ignore[no-untyped-call]
    return bounded


class _BoundedGradient(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.nan_to_num(gradient)


# Parameters that are no vectors.
_OTHERS = frozenset(
    {"mask", "weights", "radius_squared", "c", "power", "saturation", "keep_radius", "least_radius", "bound"}
)


def _check_vectors(given: dict[str, object], axes: int) -> None:
    vectors: dict[str, Tensor] = {}
    for name, value in given.items():
        if name in _OTHERS:
            continue
        if not isinstance(value, Tensor) or value.is_complex():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name} must be a real torch tensor, not {kind}")
        if value.dim() < axes or not value.shape[-1]:
            wanted = ("", "(..., d)", "(..., n, d)")[axes]
            raise InputError(f"{name} must have the shape {wanted} with d of at least 1, not {tuple(value.shape)}")
        vectors[name] = value
    if len(vectors) < 2:
        return
    shapes = {name: tuple(vector.shape) for name, vector in vectors.items()}
    batches = [vector.shape[:-axes] for vector in vectors.values()]
    sizes = zip_longest(*map(reversed, batches), fillvalue=1)
    fit = all(len(set(axis) - {1}) < 2 for axis in sizes)
    if not fit or len({vector.shape[-1] for vector in vectors.values()}) > 1:
        raise InputError(f"vectors of one space have one width, and batches that fit each other; given {shapes}")
    devices = {name: str(vector.device) for name, vector in vectors.items()}
    if len(set(devices.values())) > 1:
        raise InputError(f"vectors must be on one device; given {devices}")


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
        return bounded_gradient(radius_squared).sqrt()
    if not 0 < radius_squared < math.inf:
        raise InputError(f"the curvature is given as a positive finite number, not as {radius_squared}")
    return math.sqrt(radius_squared)
