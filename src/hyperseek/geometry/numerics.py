"""Numerics of geometry: the precision it is computed in, and functions of lengths that are exact near 0 and far out.

Geometry is computed in float32 or float64, also under autocast and for half-precision inputs: half precision has three
digits, enough for a coordinate, but not for the difference of two squares in a distance. Sums and differences of nearly
equal directions, which cancel even in float32, are computed in `widest`.

f(|x|) x / |x| is smooth for odd f, though |x| is not. So each radial function here is f(r) / r, by its series near 0,
and its gradient is right at zero as well.
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


def wide_dtype(values: Tensor) -> torch.dtype:
    """Return the dtype that geometry is computed in: float64 for float64, float32 for everything else."""
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def widest(values: Tensor) -> torch.dtype:
    """Return the widest dtype of the values' device: float64, or on mps, which lacks it, their own."""
    return values.dtype if values.device.type == "mps" else torch.float64


def full_precision(function: Callable[_P, _R], *, axes: int = 0) -> Callable[_P, _R]:
    """Cast a function's floating tensors to one dtype, float64 if any non-scalar has it, and disable autocast.

    Args:
        function: A function of tensors, numbers and None.
        axes: Number of last axes that vectors must have, 0 to check nothing. With 1 or 2, all tensors but masks,
            weights and curvatures are vectors, which must have the same width and device, and batches that broadcast.

    Returns:
        The function; it raises InputError if vectors do not fit.
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
            # Masks keep their dtype; integer coordinates are cast.
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
    """Return values with a finite gradient: infinities become the largest number, and NaN becomes 0.

    It is meant for values shared by many points, where one point beyond the resolution of float32 would spoil the
    gradients of all. The gradients of points are left alone, so that a diverging loss remains visible.
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


# Parameters that are not vectors.
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
        raise InputError(f"vectors of one space must have the same width and compatible batches; given {shapes}")
    devices = {name: str(vector.device) for name, vector in vectors.items()}
    if len(set(devices.values())) > 1:
        raise InputError(f"vectors must be on the same device; given {devices}")


def root(radius_squared: float | Tensor) -> float | Tensor:
    """Return R; differentiable if R² is a tensor.

    Args:
        radius_squared: R², or `c`, whose root is needed likewise.

    Returns:
        The positive root.

    Raises:
        InputError: A number is not positive and finite. Tensors are not checked, which would synchronise with a GPU.
    """
    if isinstance(radius_squared, Tensor):
        if radius_squared.dim():
            raise InputError(
                f"the curvature must be a number or a 0-dim tensor, not {radius_squared.dim()} axes of them"
            )
        return bounded_gradient(radius_squared).sqrt()
    if not 0 < radius_squared < math.inf:
        raise InputError(f"the curvature must be a positive finite number, not {radius_squared}")
    return math.sqrt(radius_squared)


_SMALL = 1e-3  # here the first omitted term of every series is below float64's rounding


def exponents(vectors: Tensor) -> Tensor:
    """Return for vectors `(..., d)` integers e `(..., 1)`, such that 2 ** e is the size of the largest coordinate."""
    if not vectors.shape[-1]:
        raise InputError(f"vectors must have at least 1 coordinate; the shape {tuple(vectors.shape)} has none")
    # Two to the power of any of these, or of its negative, is a normal number. They are floating, since with integers
    # torch's gradient of ldexp would be 0.
    furthest = 1 - math.frexp(torch.finfo(vectors.dtype).tiny)[1]
    return vectors.detach().abs().amax(-1, keepdim=True).log2().floor().clamp(-furthest, furthest)


def times_power(values: Tensor, exponent: Tensor) -> Tensor:
    """Return values times 2 ** `exponent`, clamped to the dtype's range."""
    half = (exponent / 2).floor()
    # In two steps, neither of which leaves the dtype's range if the result is within it.
    scaled = torch.ldexp(torch.ldexp(values, half), exponent - half)
    return saturated(scaled)


def finite(values: Tensor, again: Callable[[], Tensor]) -> Tensor:
    """Return values; replace non-finite ones by those of a slower computation, as constants without gradients."""
    fine = values.isfinite()
    if fine.all():
        return values
    with torch.no_grad():
        other = again()
    return torch.where(fine, values, other)


def saturated(values: Tensor) -> Tensor:
    """Return values with infinities replaced by the largest number, with a gradient of 0; NaN stays."""
    largest = torch.finfo(values.dtype).max
    return values.clamp(-largest, largest)


def norm(vectors: Tensor) -> Tensor:
    """Return lengths `(..., 1)` of vectors `(..., d)`; their gradient at 0 is taken to be 0.

    Squares in float32 overflow from 1e19 on and vanish below 1e-23, so vectors are first scaled by a power of two,
    which is exact.
    """
    plain = _plain_norm(vectors)
    if plain is not None:
        return plain
    exponent = exponents(vectors)
    length: Tensor = torch.linalg.vector_norm(torch.ldexp(vectors, -exponent), dim=-1, keepdim=True)
    return torch.ldexp(length, exponent)


def _plain_norm(vectors: Tensor) -> Tensor | None:
    """Return lengths if no square is out of range, so that scaling would change no digit, else None.

    Only on a CPU, where the check costs nothing: scans of unit vectors take a third of the time.
    """
    if vectors.device.type != "cpu" or not vectors.shape[-1]:
        return None
    info = torch.finfo(vectors.dtype)
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    fine = (length > (info.tiny / info.eps) ** 0.5) & (length < info.max**0.5 / 2)
    return length if fine.all() else None


def directions(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors `(..., d)` and lengths `(..., 1)`; zero has the direction 0.

    The derivative of a direction is 1 / length. For vectors too short to be squared, it would soon be infinite in
    float32, and is taken to be 0.
    """
    plain = _plain_norm(vectors)
    if plain is not None:
        return vectors / plain, plain
    exponent = exponents(vectors)
    scaled = torch.ldexp(vectors, -exponent)
    long = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    length = torch.ldexp(long, exponent)
    short = length < torch.finfo(vectors.dtype).tiny ** 0.5 * 16
    scaled, long = torch.where(short, scaled.detach(), scaled), torch.where(short, long.detach(), long)
    return scaled / torch.where(long == 0, 1, long), length


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean distances `(..., n, m)` of all pairs of `(..., n, d)` and `(..., m, d)` vectors.

    Computed from differences, and for float32 in float64: squared differences of near vectors underflow in float32.
    """
    apart: Tensor = torch.cdist(x.to(widest(x)), y.to(widest(x)), compute_mode="donot_use_mm_for_euclid_dist")
    return apart.to(x.dtype)


def asinh(values: Tensor) -> Tensor:
    """Return asinh of values of at least 0; torch's own is infinite above the square root of the largest number."""
    # From here on asinh(r) is log(2 r) to the last digit, and its derivative 1 / r.
    large = torch.finfo(values.dtype).eps ** -0.5
    return torch.where(
        values > large, torch.log(values.clamp_min(large)) + math.log(2), torch.asinh(values.clamp(max=large))
    )


def sinh_ratio(radius: Tensor) -> Tensor:
    """Return sinh(r) / r. Beyond the `farthest` radius sinh is constant, so nothing overflows."""
    limit = farthest(radius.dtype)
    return _ratio(lambda r: torch.sinh(r.clamp(max=limit)), radius, (1 / 6, 1 / 120))


def asinh_ratio(radius: Tensor) -> Tensor:
    """Return asinh(r) / r."""
    return _ratio(asinh, radius, (-1 / 6, 3 / 40))


def tanh_ratio(radius: Tensor) -> Tensor:
    """Return tanh(r) / r."""
    return _ratio(torch.tanh, radius, (-1 / 3, 2 / 15))


def atanh_ratio(radius: Tensor) -> Tensor:
    """Return artanh(r) / r; artanh is constant from the largest number below 1 on."""
    return _ratio(lambda r: torch.atanh(r.clamp(max=below_one(r.dtype))), radius, (1 / 3, 1 / 5))


def farthest(dtype: torch.dtype) -> float:
    """Return the distance from the origin, in units of R, up to which squares of coordinates are finite."""
    return 300.0 if dtype == torch.float64 else 40.0


def below_one(dtype: torch.dtype) -> float:
    """Return the largest number below 1."""
    return 1 - torch.finfo(dtype).eps / 2


def _ratio(function: Callable[[Tensor], Tensor], radius: Tensor, series: tuple[float, float]) -> Tensor:
    radius = saturated(radius)  # a length over a small R may be infinite
    small = radius < _SMALL
    # Both branches are differentiated, so each gets numbers in its domain.
    square = torch.where(small, radius, 0).square()
    far = torch.where(small, 1, radius)
    return torch.where(small, 1 + square * (series[0] + square * series[1]), function(far) / far)
