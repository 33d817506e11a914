"""Linear maps, rotary positions, norms and classification on the hyperboloid.

Such a norm leaves all points about equally far from the origin: sqrt(d - 1) in space, before gains are trained.

Rotary positions rotate the channels 2j and 2j + 1 together by position · base^(-2j / n), where n is the largest even
number of channels; an odd last one is not rotated. The original takes the frequency of pair j from entry 2j of a table
that holds each frequency twice: if n / 2 is odd, the frequencies are permuted, and if it is even, every other one is
lost and the rest appear twice. Checkpoints trained that way need `style="original"`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperseek.errors import UnknownNameError
from hyperseek.geometry import lorentz_from_space
from hyperseek.geometry.numerics import wide_dtype

RotaryStyle: TypeAlias = Literal["standard", "original"]
ROTARY_STYLES: tuple[RotaryStyle, ...] = ("standard", "original")


class Rotary(NamedTuple):
    """Cosines and sines of the angles, each `(B or 1, S, pairs)`."""

    cosines: Tensor
    sines: Tensor


def rotary_table(positions: Tensor, channels: int, *, base: float = 10000.0, style: RotaryStyle = "standard") -> Rotary:
    """Make the table of given positions.

    Args:
        positions: `(B or 1, S)` whole numbers.
        channels: Channels of a head's space part; an odd last one is not rotated.
        base: Base of the geometric series of frequencies; larger for longer texts.
        style: See the module docstring.

    Returns:
        The table, float32.

    Raises:
        UnknownNameError: The style is unknown.
    """
    if style not in ROTARY_STYLES:
        raise UnknownNameError("rotary style", style, ROTARY_STYLES)
    pairs = channels // 2
    places = torch.arange(pairs, device=positions.device)
    frequencies = 1.0 / base ** (2 * places / (2 * pairs))
    if style == "original":
        frequencies = frequencies[2 * places % pairs]
    # In half precision, angles would lose their fractional part, and with it the position.
    with torch.autocast(positions.device.type, enabled=False):
        angles = positions[..., None].float() * frequencies
    return Rotary(angles.cos(), angles.sin())


def rotate(space: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the channels of space parts to their positions.

    Args:
        space: `(B, H, S, channels)`.
        rotary: The table of their positions.

    Returns:
        The rotated channels, in the precision of `space`.
    """
    cosines, sines = (part[:, None].to(space.dtype) for part in rotary)
    count = 2 * cosines.shape[-1]
    even, odd = space[..., :count:2], space[..., 1:count:2]
    turned = torch.stack([even * cosines - odd * sines, even * sines + odd * cosines], dim=-1).flatten(-2)
    return torch.cat([turned, space[..., count:]], dim=-1)


class LorentzLinear(nn.Module):
    """Map points to points: a linear map of all coordinates, time included, computes the space part.

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
        # Points are at least float32; weights cast to half precision need inputs of the same type.
        mapped: Tensor = self.linear(points.to(self.linear.weight.dtype))
        return mapped

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Map `(..., size)` points to `(..., out_size)` points."""
        return lorentz_from_space(self.space(points), radius_squared)


class LorentzMultiHeadLinear(nn.Module):
    """Map points to one point per head, each of a smaller space.

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
        """Return the space part `(B, H, S, head_size - 1)`, rotated by its positions."""
        mapped = self.linear(points.to(self.linear.weight.dtype)).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        return mapped if rotary is None else rotate(mapped, rotary)

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0, rotary: Rotary | None = None) -> Tensor:
        """Map `(B, S, size)` points to `(B, H, S, head_size)` points; a rotation does not change their time."""
        return lorentz_from_space(self.space(points, rotary), radius_squared)


def initialise(linear: nn.Linear) -> None:
    """Draw weights as the original does: uniform with gain sqrt(2), biases zero."""
    nn.init.xavier_uniform_(linear.weight, gain=math.sqrt(2))
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


class LorentzNorm(nn.Module):
    """Base of the norms: subclasses normalise the space part."""

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
    """`gamma * tanh(alpha * x) + beta`: bounds the space part without making all lengths equal.

    Args:
        size: Coordinates of a point, time included.
        alpha: Initial value of the factor in the tanh.
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
    """Return a new norm of points of `size` coordinates; UnknownNameError if the name is unknown."""
    if name not in NORMS:
        raise UnknownNameError("norm_layer", name, NORMS)
    return NORMS[name](size)


# A normal's length is a divisor; a class whose normal is zero has logit zero.
_SHORTEST = 1e-12


class LorentzMLR(nn.Module):
    """Score points by their signed distance from one hyperplane per class.

    "Fully Hyperbolic Convolutional Neural Networks for Computer Vision", arXiv 2303.15919, section 4.3. The hyperplane
    of a class has the normal `z` and the distance `a` from the origin; its logit is the point's distance times `|z|`.

    Args:
        size: Coordinates of a point, time included.
        classes: Number of classes.
    """

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(classes))
        self.z = nn.Parameter(torch.empty(classes, size - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normals and offsets uniformly, within 1 / sqrt(size - 1)."""
        bound = self.z.shape[1] ** -0.5
        nn.init.uniform_(self.z, -bound, bound)
        nn.init.uniform_(self.a, -bound, bound)

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Return the logits `(..., classes)` of `(..., d)` points, float32 or wider."""
        dtype = wide_dtype(points)
        radius = torch.as_tensor(radius_squared, dtype=dtype, device=points.device).sqrt()
        normals, offsets = self.z.to(dtype), self.a.to(dtype)[:, None] / radius
        length = torch.linalg.vector_norm(normals, dim=1, keepdim=True).clamp_min(_SHORTEST)
        planes = torch.cat([-torch.sinh(offsets) * length, torch.cosh(offsets) * normals], dim=1)
        # The product is the only expensive step and runs in the weights' precision; asinh does not.
        products = nn.functional.linear(points.to(self.z.dtype), planes.to(self.z.dtype)).to(dtype)
        scales = radius * length[:, 0]
        logits: Tensor = scales * torch.asinh(products / scales)
        return logits
