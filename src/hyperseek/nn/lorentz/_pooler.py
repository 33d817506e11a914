"""Pooling of the points of a text's tokens to one point."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from hyperseek.errors import InputError, UnknownNameError
from hyperseek.geometry import lorentz_centroid, lorentz_inner_matrix, outward_einstein_midpoint
from hyperseek.nn.lorentz._layers import LorentzLinear

PoolingName: TypeAlias = Literal["cls", "mean", "outward_einstein_midpoint", "attentive_mean"]
POOLINGS: tuple[PoolingName, ...] = ("cls", "mean", "outward_einstein_midpoint", "attentive_mean")
"""The poolings by the names that configurations use."""


class LorentzPooler(nn.Module):
    """Pool token points.

    | pooling | the point |
    |---|---|
    | `cls` | the first token |
    | `mean` | the Lorentz centroid, which is the Einstein midpoint |
    | `outward_einstein_midpoint` | the same with weights that grow with a token's distance from the origin |
    | `attentive_mean` | the centroid of mapped tokens, by attention from the first one |

    Args:
        pooling: One of the above.
        size: Coordinates of a point.
        power: Exponent of the outward midpoint: Klein coordinates are weighted by `gamma^(power + 1)`, so that 0 is
            the plain Einstein midpoint. The p of the HypRAG paper is power - 1.
        saturation: Saturation of the outward midpoint, at least 0: how soon its weights stop growing.
        keep_radius: Whether the outward midpoint keeps the weighted mean distance of its tokens from the origin;
            otherwise averaging pulls it inwards, the more so the more its tokens differ.

    Raises:
        InputError: An option of the outward midpoint is given to another pooling, or is out of range.
        UnknownNameError: The pooling is unknown.
    """

    def __init__(
        self,
        pooling: PoolingName,
        size: int,
        *,
        power: float = 1.0,
        saturation: float = 0.0,
        keep_radius: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UnknownNameError("pooling", pooling, POOLINGS)
        if pooling != "outward_einstein_midpoint" and (power, saturation, keep_radius) != (1.0, 0.0, False):
            raise InputError(
                f"power, saturation and keep_radius belong to the pooling outward_einstein_midpoint, not to {pooling!r}"
            )
        if not (math.isfinite(power) and 0 <= saturation < math.inf):
            raise InputError(f"power must be finite and saturation at least 0; given {power} and {saturation}")
        self.pooling = pooling
        self.power = power
        self.saturation = saturation
        self.keep_radius = keep_radius
        if pooling == "attentive_mean":
            self.q_proj = LorentzLinear(size, size)
            self.kv_proj = LorentzLinear(size, size)

    def forward(self, points: Tensor, mask: Tensor | None = None, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Pool.

        Args:
            points: `(B, S, d)`.
            mask: `(B, S)`; 0 marks padding. None if there is none.
            radius_squared: R².

        Returns:
            `(B, d)` points.
        """
        if self.pooling == "mean":
            return lorentz_centroid(points, mask=mask, radius_squared=radius_squared)
        if self.pooling == "outward_einstein_midpoint":
            return outward_einstein_midpoint(
                points,
                mask,
                power=self.power,
                saturation=self.saturation,
                keep_radius=self.keep_radius,
                radius_squared=radius_squared,
            )
        first = _first(points, mask)
        return first if self.pooling == "cls" else self._attend(first, points, mask, radius_squared)

    def _attend(self, first: Tensor, points: Tensor, mask: Tensor | None, radius_squared: float | Tensor) -> Tensor:
        query = self.q_proj(first, radius_squared)
        if mask is not None:
            points = torch.where(mask.bool()[..., None], points, 0)  # padding may hold anything, also NaN
        tokens = self.kv_proj(points, radius_squared)
        logits = lorentz_inner_matrix(query[:, None], tokens)[:, 0]
        if mask is not None:
            # The lowest number, not minus infinity, with which the point of a text without tokens would be NaN.
            logits = logits.masked_fill(mask == 0, torch.finfo(logits.dtype).min)
        return lorentz_centroid(tokens, weights=logits.softmax(-1), mask=mask, radius_squared=radius_squared)


def _first(points: Tensor, mask: Tensor | None) -> Tensor:
    """Return the first token that is not padding, which may be on the left."""
    if mask is None:
        return points[:, 0]
    count = mask.shape[1]
    numbers = torch.arange(count, device=mask.device)
    places = torch.where(mask != 0, numbers, count).amin(dim=1).clamp_max(count - 1)
    return points[torch.arange(len(points), device=points.device), places]
