"""A curvature that is trained, kept in bounds, and shared by everything that is handed this module."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from hyperseek._errors import InputError


class Curvature(nn.Module):
    """R² of a hyperboloid <x, x> = -R², as a number to train or to keep.

    What is trained is log R², which a cast to half precision leaves in float32. In training its value is put back into
    the bounds before it is read, so that it never goes far beyond them and can always come back.

    Args:
        radius_squared: Where it starts.
        trainable: Whether it is a parameter; else it is a buffer, saved and loaded alike.
        least: Lower bound, positive.
        most: Upper bound.

    Raises:
        InputError: The numbers are not in order.
    """

    log_radius_squared: Tensor

    def __init__(
        self, radius_squared: float = 1.0, *, trainable: bool = False, least: float = 0.1, most: float = 10.0
    ) -> None:
        super().__init__()
        if not 0 < least <= radius_squared <= most < math.inf:
            raise InputError(f"radius_squared must lie in [{least}, {most}], its positive bounds, not {radius_squared}")
        self.bounds = (least, most)
        value = torch.tensor(math.log(radius_squared))
        if trainable:
            self.log_radius_squared = nn.Parameter(value)
        else:
            self.register_buffer("log_radius_squared", value)

    @property
    def trainable(self) -> bool:
        """Whether it is a parameter."""
        return "log_radius_squared" not in self._buffers

    def forward(self) -> Tensor:
        """Return R², 0-dim, float32 or float64; differentiable where it is trained."""
        if self.training and self.trainable:
            # Behind autograd's back, as an optimiser does: the graph is made from the value that was put back.
            self.log_radius_squared.data.clamp_(*map(math.log, self.bounds))
            return self.log_radius_squared.exp()
        return self.log_radius_squared.clamp(*map(math.log, self.bounds)).exp()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # A curvature rounded to half precision would be another space than that of an index made before.
        def kept(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in (torch.float16, torch.bfloat16) else moved

        applied: Self = super()._apply(kept, recurse)  # type: ignore[no-untyped-call]
        return applied

    @property
    def radius_squared(self) -> float:
        """R² as a plain number."""
        return float(self.log_radius_squared.detach().clamp(*map(math.log, self.bounds)).exp())
