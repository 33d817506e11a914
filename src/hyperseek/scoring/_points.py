"""Points: what documents become. Today one vector each; shapes: `N` documents, `d` dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperseek._errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Documents as points, one vector each.

    Attributes:
        vectors: `(N, d)`, floating.
    """

    vectors: Tensor

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or not self.vectors.is_floating_point():
            raise InputError(
                f"points must be a floating tensor of shape (documents, dimensions), "
                f"not {self.vectors.dtype} of shape {tuple(self.vectors.shape)}"
            )

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Points:
        return Points(self.vectors[index])

    @property
    def dimension(self) -> int:
        """Number of dimensions `d`."""
        return self.vectors.shape[1]

    def to(self, device: str | torch.device) -> Points:
        """Return the points on `device`."""
        return Points(self.vectors.to(device))

    @classmethod
    def concatenate(cls, parts: Sequence[Points]) -> Points:
        """Join points of one dimension, in order.

        Args:
            parts: At least one.

        Returns:
            All points.

        Raises:
            InputError: `parts` is empty or the dimensions differ.
        """
        dimensions = {part.dimension for part in parts}
        if len(dimensions) != 1:
            raise InputError(f"cannot join points of dimensions {sorted(dimensions)}; they must be one and the same")
        return cls(torch.cat([part.vectors for part in parts]))
