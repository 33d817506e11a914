"""Rotary positions of the space parts of queries and keys; being rotations, they leave points on the hyperboloid.

Channels 2j and 2j + 1 turn together by position · base^(-2j / n), where n is the largest even number of channels; an
odd one passes through. The original takes the frequency of pair j from place 2j of its table written twice, so that
where n / 2 is odd the frequencies change places, and where it is even every other one is lost and the rest come twice.
Checkpoints trained so need `style="original"`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from hyperseek._errors import UnknownNameError

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
        channels: Of a head's space part; an odd last one is not rotated.
        base: Of the geometric series of frequencies; larger for longer texts.
        style: See the module.

    Returns:
        The table, float32.

    Raises:
        UnknownNameError: There is no such style.
    """
    if style not in ROTARY_STYLES:
        raise UnknownNameError("rotary style", style, ROTARY_STYLES)
    pairs = channels // 2
    places = torch.arange(pairs, device=positions.device)
    frequencies = 1.0 / base ** (2 * places / (2 * pairs))
    if style == "original":
        frequencies = frequencies[2 * places % pairs]
    # Angles would lose their fraction in half precision, and with it what position they are of.
    with torch.autocast(positions.device.type, enabled=False):
        angles = positions[..., None].float() * frequencies
    return Rotary(angles.cos(), angles.sin())


def rotate(space: Tensor, rotary: Rotary) -> Tensor:
    """Rotate the channels of space parts to their positions.

    Args:
        space: `(B, H, S, channels)`.
        rotary: The table of their positions.

    Returns:
        As given, in its own precision.
    """
    cosines, sines = (part[:, None].to(space.dtype) for part in rotary)
    count = 2 * cosines.shape[-1]
    even, odd = space[..., :count:2], space[..., 1:count:2]
    turned = torch.stack([even * cosines - odd * sines, even * sines + odd * cosines], dim=-1).flatten(-2)
    return torch.cat([turned, space[..., count:]], dim=-1)
