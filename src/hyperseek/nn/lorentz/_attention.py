"""Multi-head attention between points: values are averaged on the hyperboloid."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperseek.errors import InputError, UnknownNameError
from hyperseek.geometry import lorentz_distance_matrix, lorentz_from_space
from hyperseek.geometry.numerics import wide_dtype
from hyperseek.nn.lorentz._layers import LorentzMultiHeadLinear, Rotary

AttentionScores: TypeAlias = Literal["lorentz_inner", "distance"]
ATTENTION_SCORES: tuple[AttentionScores, ...] = ("lorentz_inner", "distance")


class LorentzAttention(nn.Module):
    """Attend from points to points.

    The weights are `softmax(<q, k> / sqrt(m))` with the Lorentz inner product (`"lorentz_inner"`, the code of HypRAG,
    computed by torch's fused attention) or `softmax(-distance(q, k)² / sqrt(m))` (`"distance"`, its paper; quadratic
    memory). Each head's centroid is taken on its hyperboloid; all coordinates of all heads are mapped to the new space
    part.

    Args:
        size: Coordinates of a point, a multiple of `heads`, so that a head has m = `size / heads` of them.
        heads: Number of heads.
        bias: Whether queries, keys and values have a bias.
        scores: See above.
        query_key_norm: Whether the space parts of queries and keys are scaled to norm 1.

    Raises:
        InputError: `size` is not a multiple of `heads`, or leaves a head fewer than two coordinates.
        UnknownNameError: The kind of scores is unknown.
    """

    def __init__(
        self,
        size: int,
        heads: int,
        *,
        bias: bool = True,
        scores: AttentionScores = "lorentz_inner",
        query_key_norm: bool = False,
    ) -> None:
        super().__init__()
        if size % heads or size < 2 * heads:
            raise InputError(f"hidden_size {size} must be a multiple of the {heads} heads, and at least double")
        if scores not in ATTENTION_SCORES:
            raise UnknownNameError("attention_scores", scores, ATTENTION_SCORES)
        self.scores = scores
        self.query_key_norm = query_key_norm
        self.scale = 1 / math.sqrt(size // heads)
        self.q_proj = LorentzMultiHeadLinear(size, size // heads, heads, bias=bias)
        self.k_proj = LorentzMultiHeadLinear(size, size // heads, heads, bias=bias)
        self.v_proj = LorentzMultiHeadLinear(size, size // heads, heads, bias=bias)
        self.concat_proj = nn.Linear(size, size - 1)

    def forward(
        self,
        points: Tensor,
        radius_squared: float | Tensor = 1.0,
        *,
        mask: Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            points: `(B, S, d)`.
            radius_squared: R².
            mask: Boolean, broadcast to `(B, H, S, S)`: where a token may attend, at least to one; None allows all.
            rotary: The table of the tokens' positions; None leaves positions out.

        Returns:
            `(B, S, d)` points.
        """
        queries = self._directed(self.q_proj.space(points, rotary), radius_squared)
        keys = self._directed(self.k_proj.space(points, rotary), radius_squared)
        values = self.v_proj(points, radius_squared)
        if self.scores == "distance":
            logits = -lorentz_distance_matrix(queries, keys, radius_squared).square() * self.scale
            if mask is not None:
                logits = logits.masked_fill(~mask, -torch.inf)
            averages = logits.softmax(-1) @ values
        else:
            # Fused kernels need half precision if the model uses it; under autocast torch casts by itself.
            dtype = self.q_proj.linear.weight.dtype
            queries = torch.cat([-queries[..., :1], queries[..., 1:]], dim=-1)
            averages = F.scaled_dot_product_attention(
                queries.to(dtype), keys.to(dtype), values.to(dtype), attn_mask=mask, scale=self.scale
            )
        heads = onto_hyperboloid(averages, radius_squared).transpose(1, 2).flatten(-2)
        return lorentz_from_space(self.concat_proj(heads.to(self.concat_proj.weight.dtype)), radius_squared)

    def _directed(self, space: Tensor, radius_squared: float | Tensor) -> Tensor:
        if self.query_key_norm:
            space = F.normalize(space.to(wide_dtype(space)), dim=-1)
        return lorentz_from_space(space, radius_squared)


def onto_hyperboloid(averages: Tensor, radius_squared: float | Tensor) -> Tensor:
    """Scale averages of points back onto the hyperboloid: their Lorentz centroids.

    Args:
        averages: `(..., d)`, of weights that sum to 1.
        radius_squared: R².

    Returns:
        `(..., d)` points, float32 or wider.
    """
    wide = averages.to(wide_dtype(averages))
    time, space = wide[..., :1], wide[..., 1:]
    length = torch.linalg.vector_norm(space, dim=-1, keepdim=True)
    # An average lies inside the hyperboloid, -<v, v> >= R². Half precision loses this far from the origin, and
    # dividing by the root of the difference would put the point anywhere.
    square = torch.clamp_min((time - length) * (time + length), radius_squared)
    return lorentz_from_space(space * (radius_squared / square).sqrt(), radius_squared)
