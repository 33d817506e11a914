"""What stands between an encoder and the classifier of masked tokens."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from hyperseek._errors import UnknownNameError
from hyperseek.geometry import lorentz_from_space
from hyperseek.nn.lorentz._linear import LorentzLinear
from hyperseek.nn.lorentz._norms import make_norm

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
        UnknownNameError: There is no such activation or norm.
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
