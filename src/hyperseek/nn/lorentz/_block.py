"""One layer of the encoder."""

from __future__ import annotations

import math

from torch import Tensor, nn

from hyperseek.nn.lorentz._attention import AttentionScores, LorentzAttention
from hyperseek.nn.lorentz._feed_forward import LorentzFeedForward
from hyperseek.nn.lorentz._norms import make_norm
from hyperseek.nn.lorentz._residual import LorentzResidual
from hyperseek.nn.lorentz._rotary import Rotary


class LorentzBlock(nn.Module):
    """Norm, attention, residual, norm, feed-forward, residual, norm.

    Args:
        size: Coordinates of a point.
        heads: Attention heads; `size` is a multiple of them.
        inner_size: Coordinates in the feed-forward layer, time included; None takes 4 `size`.
        norm: `"layer_norm"`, `"rms_norm"` or `"dyt_norm"`.
        attention_bias: See `LorentzAttention`, as for the next two.
        attention_scores: See there.
        query_key_norm: See there.
        residual_scale: Factor of the space part behind a residual; None takes the original's 4 sqrt(`size`).
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
