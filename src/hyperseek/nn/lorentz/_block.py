"""One layer of the encoder, the embeddings before the first layer, and the pooling and the heads after the last."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperseek.errors import InputError, UnknownNameError
from hyperseek.geometry import (
    lorentz_centroid,
    lorentz_distance_matrix,
    lorentz_from_space,
    lorentz_inner,
    lorentz_inner_matrix,
    outward_einstein_midpoint,
)
from hyperseek.geometry.numerics import wide_dtype
from hyperseek.nn.lorentz._layers import LorentzLinear, LorentzMultiHeadLinear, Rotary, make_norm

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


# Lower bound of -<a, a>, which a negative weight could bring to zero: its root is a divisor.
_SMALLEST = 1e-6


class LorentzResidual(nn.Module):
    """Return `x + w y`, scaled back onto the hyperboloid: a point between the two for positive w.

    "Lorentzian Residual Neural Networks", arXiv 2412.14695.

    Args:
        scale: Factor of the space part afterwards; the blocks of HypRAG use 4 sqrt(d) before a norm.
        weight: Where w starts.
    """

    def __init__(self, *, scale: float = 1.0, weight: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.w_y = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor, y: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Add `(..., d)` points."""
        dtype = wide_dtype(x)
        x, y, weight = x.to(dtype), y.to(dtype), self.w_y.to(dtype)
        # -<a, a> from <x, x> = <y, y> = -R² and -<x, y> >= R², which stay exact far from the origin, where the
        # inner product of a with itself is all rounding error.
        across = torch.clamp_min(-lorentz_inner(x, y), radius_squared)[..., None]
        square = radius_squared * (1 + weight.square()) + 2 * weight * across
        factor = (radius_squared / square.abs().clamp_min(_SMALLEST)).sqrt()
        return lorentz_from_space((x + weight * y)[..., 1:] * factor * self.scale, radius_squared)


class LorentzFeedForward(nn.Module):
    """SwiGLU of the space parts: `w2(lift(silu(w1 x) * w3 x))`.

    Args:
        size: Coordinates of a point.
        inner_size: Coordinates of a point between the two maps, time included.
    """

    def __init__(self, size: int, inner_size: int) -> None:
        super().__init__()
        self.w1 = LorentzLinear(size, inner_size)
        self.w2 = LorentzLinear(inner_size, size)
        self.w3 = LorentzLinear(size, inner_size)

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Map `(..., d)` points to `(..., d)` points."""
        inner = F.silu(self.w1.space(points)) * self.w3.space(points)
        mapped: Tensor = self.w2(lorentz_from_space(inner, radius_squared), radius_squared)
        return mapped


class LorentzBlock(nn.Module):
    """Norm, attention, residual, norm, feed-forward, residual, norm.

    Args:
        size: Coordinates of a point.
        heads: Attention heads; `size` is a multiple of them.
        inner_size: Coordinates in the feed-forward layer, time included; None takes 4 `size`.
        norm: `"layer_norm"`, `"rms_norm"` or `"dyt_norm"`.
        attention_bias: See `LorentzAttention`.
        attention_scores: See `LorentzAttention`.
        query_key_norm: See `LorentzAttention`.
        residual_scale: Factor of the space part after a residual; None takes the original's 4 sqrt(`size`).
    """

    def __init__(
        self,
        size: int,
        heads: int,
        *,
        inner_size: int | None = None,
        norm: str = "layer_norm",
        attention_bias: bool = True,
        attention_scores: AttentionScores = "lorentz_inner",
        query_key_norm: bool = False,
        residual_scale: float | None = None,
    ) -> None:
        super().__init__()
        scale = 4 * math.sqrt(size) if residual_scale is None else residual_scale
        self.input_norm = make_norm(norm, size)
        self.self_attn = LorentzAttention(
            size, heads, bias=attention_bias, scores=attention_scores, query_key_norm=query_key_norm
        )
        self.residual_add = LorentzResidual(scale=scale)
        self.post_attention_norm = make_norm(norm, size)
        self.mlp = LorentzFeedForward(size, inner_size or 4 * size)
        self.post_mlp_residual_add = LorentzResidual(scale=scale)
        self.output_norm = make_norm(norm, size)

    def forward(
        self,
        points: Tensor,
        radius_squared: float | Tensor = 1.0,
        mask: Tensor | None = None,
        rotary: Rotary | None = None,
    ) -> Tensor:
        """Map `(B, S, d)` points to `(B, S, d)` points; `mask` and `rotary` as for `LorentzAttention`."""
        attended = self.self_attn(self.input_norm(points, radius_squared), radius_squared, mask=mask, rotary=rotary)
        points = self.residual_add(points, attended, radius_squared)
        mapped = self.mlp(self.post_attention_norm(points, radius_squared), radius_squared)
        points = self.post_mlp_residual_add(points, mapped, radius_squared)
        normed: Tensor = self.output_norm(points, radius_squared)
        return normed


class LorentzEmbeddings(nn.Module):
    """Sum the space parts of tokens and, if present, of positions and types, and lift them.

    Args:
        size: Coordinates of a point, time included.
        vocabulary: Number of tokens.
        padding: The token whose embedding is zero and stays zero; None if there is none.
        positions: Maximum number of tokens of a text if positions have embeddings; 0 if they are rotary.
        types: Token types; 0 for none.
    """

    def __init__(
        self, size: int, vocabulary: int, *, padding: int | None = None, positions: int = 0, types: int = 0
    ) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, size - 1, padding_idx=padding)
        self.position_embeddings = nn.Embedding(positions, size - 1) if positions else None
        self.token_type_embeddings = nn.Embedding(types, size - 1) if types else None

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        token_type_ids: Tensor | None = None,
        radius_squared: float | Tensor = 1.0,
    ) -> Tensor:
        """Return the points `(B, S, d)` of `(B, S)` tokens; types default to 0."""
        space = self.word_embeddings(input_ids)
        if self.position_embeddings is not None:
            space = space + self.position_embeddings(position_ids)
        if self.token_type_embeddings is not None:
            types = input_ids.new_zeros(1, 1) if token_type_ids is None else token_type_ids
            space = space + self.token_type_embeddings(types)
        return lorentz_from_space(space, radius_squared)


ACTIVATIONS: MappingProxyType[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": F.tanh}
)


class LorentzPredictionHead(nn.Module):
    """Linear map, activation of the space part, norm.

    Args:
        size: Coordinates of a point.
        activation: `"gelu"`, `"relu"`, `"silu"` or `"tanh"`.
        norm: `"layer_norm"`, `"rms_norm"` or `"dyt_norm"`.
        bias: Whether the linear map has a bias.

    Raises:
        UnknownNameError: The activation or the norm is unknown.
    """

    def __init__(self, size: int, *, activation: str = "gelu", norm: str = "layer_norm", bias: bool = True) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UnknownNameError("classifier_activation", activation, ACTIVATIONS)
        self.activation = ACTIVATIONS[activation]
        self.dense = LorentzLinear(size, size, bias=bias)
        self.norm = make_norm(norm, size)

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Map `(..., d)` points to `(..., d)` points."""
        lifted = lorentz_from_space(self.activation(self.dense.space(points)), radius_squared)
        normed: Tensor = self.norm(lifted, radius_squared)
        return normed


# The factor stays between 1/e³ and e³: bounds that are rarely reached, and within which the lift is still exact.
_BOUND = 3.0


class LorentzRadiusFactor(nn.Module):
    """Multiply each point's space part by a factor predicted from the point; initially 1.

    A norm at the end of an encoder leaves all tokens about equally far from the origin, whereas a hierarchy needs
    general texts near it and specific ones far out. The original has no such layer.

    Args:
        size: Coordinates of a point, time included.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Move `(..., d)` points along the lines from the origin through them."""
        space = points[..., 1:].to(wide_dtype(points))
        logarithm = self.linear(points.to(self.linear.weight.dtype)).to(space.dtype)
        return lorentz_from_space(space * (_BOUND * (logarithm / _BOUND).tanh()).exp(), radius_squared)


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
