"""Functions that act on a vector's length alone, with gradients that are right at zero as well.

f(|x|) x / |x| is smooth where f is odd, though |x| is not: so each function here is f(r) / r, by its series near 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from hyperseek.errors import InputError

_SMALL = 1e-3  # here the first omitted term of every series is below float64's rounding


def exponents(vectors: Tensor) -> Tensor:
    """Return for vectors `(..., d)` whole numbers `(..., 1)`, two to whose power is of the size of their largest."""
    if not vectors.shape[-1]:
        raise InputError(f"vectors need at least 1 number each; the shape {tuple(vectors.shape)} has none")
    # Two to the power of any of these and of its negative is a number of full precision. They are floating, as of
    # integers torch's gradient of ldexp would be 0.
    furthest = 1 - math.frexp(torch.finfo(vectors.dtype).tiny)[1]
    return vectors.detach().abs().amax(-1, keepdim=True).log2().floor().clamp(-furthest, furthest)


def times_power(values: Tensor, exponent: Tensor) -> Tensor:
    """Return values times two to the power of `exponent`; what is too large for its dtype is the largest number."""
    half = (exponent / 2).floor()
    # In two steps, neither of which leaves the dtype's range where the result is within it.
    scaled = torch.ldexp(torch.ldexp(values, half), exponent - half)
    return saturated(scaled)


def finite(values: Tensor, again: Callable[[], Tensor]) -> Tensor:
    """Return values; those that are not finite are taken from a slower computation, as constants without gradients."""
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

    Squares of float32 overflow from 1e19 on and vanish below 1e-23, so vectors are scaled by a power of two before,
    which rounds nothing.
    """
    plain = _plain_norm(vectors)
    if plain is not None:
        return plain
    exponent = exponents(vectors)
    length: Tensor = torch.linalg.vector_norm(torch.ldexp(vectors, -exponent), dim=-1, keepdim=True)
    return torch.ldexp(length, exponent)


def _plain_norm(vectors: Tensor) -> Tensor | None:
    """Return lengths if no square of theirs is out of range, so that scaling would change no digit, else None.

    On a CPU alone, where looking at numbers costs nothing: scans of unit vectors take a third of the time.
    """
    if vectors.device.type != "cpu" or not vectors.shape[-1]:
        return None
    info = torch.finfo(vectors.dtype)
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    fine = (length > (info.tiny / info.eps) ** 0.5) & (length < info.max**0.5 / 2)
    return length if fine.all() else None


def directions(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit vectors `(..., d)` and lengths `(..., 1)`; zero has the direction 0.

    The derivative of a direction is 1 / length. For vectors too short to have a square it would be infinite in float32
    before long, and is taken to be 0.
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

    From differences, and of float32 in float64: what is near to each other has squares that float32 has not.
    """
    wide = x.dtype if x.device.type == "mps" else torch.float64  # which has no float64
    apart: Tensor = torch.cdist(x.to(wide), y.to(wide), compute_mode="donot_use_mm_for_euclid_dist")
    return apart.to(x.dtype)


def asinh(values: Tensor) -> Tensor:
    """Return asinh of values of at least 0; torch's own is infinite from the root of the largest number on."""
    # From here on asinh(r) is log(2 r) to the last digit, and its derivative 1 / r.
    large = torch.finfo(values.dtype).eps ** -0.5
    return torch.where(
        values > large, torch.log(values.clamp_min(large)) + math.log(2), torch.asinh(values.clamp(max=large))
    )


def sinh_ratio(radius: Tensor) -> Tensor:
    """Return sinh(r) / r. Beyond the `farthest` radius sinh stays at its value there, so nothing overflows."""
    limit = farthest(radius.dtype)
    return _ratio(lambda r: torch.sinh(r.clamp(max=limit)), radius, (1 / 6, 1 / 120))


def asinh_ratio(radius: Tensor) -> Tensor:
    """Return asinh(r) / r."""
    return _ratio(asinh, radius, (-1 / 6, 3 / 40))


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
    radius = saturated(radius)  # a length over a small R may have left the dtype's range
    small = radius < _SMALL
    # Both branches are differentiated, so each gets numbers that it can take.
    square = torch.where(small, radius, 0).square()
    far = torch.where(small, 1, radius)
    return torch.where(small, 1 + square * (series[0] + square * series[1]), function(far) / far)
