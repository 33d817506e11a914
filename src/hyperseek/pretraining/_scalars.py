"""Parameters without a dimension, which DeepSpeed (0.19) cannot send from one process to another.

While it trains, each is kept as one of size 1 and read as before; names and shapes are put back on saving.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

_INSIDE, _BEHIND = "parametrizations.", ".original"


class _Scalar(nn.Module):
    def forward(self, kept: Tensor) -> Tensor:
        return kept.reshape(())

    def right_inverse(self, scalar: Tensor) -> Tensor:
        return scalar.reshape(1)


def keep_scalars_as_vectors(model: nn.Module) -> None:
    """Give every parameter of no dimension one of size 1 in its place, from which it is read."""
    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                register_parametrization(module, name, _Scalar(), unsafe=True)


def with_scalars(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with the names and shapes it has without `keep_scalars_as_vectors`."""
    return {
        name.replace(_INSIDE, "").removesuffix(_BEHIND) if _INSIDE in name else name: (
            tensor.reshape(()) if _INSIDE in name else tensor
        )
        for name, tensor in state.items()
    }
