"""One layer of the encoder, the embeddings before the first layer, and the heads after the last."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperseek.errors import UnknownNameError
from hyperseek.geometry import lorentz_from_space, lorentz_inner
from hyperseek.geometry.numerics import wide_dtype
from hyperseek.nn.lorentz._attention import AttentionScores, LorentzAttention
from hyperseek.nn.lorentz._layers import LorentzLinear, Rotary, make_norm

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
