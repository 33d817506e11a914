"""Points of hyperbolic space at chosen distances."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def tangents(*shape: int, radius: float, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return random directions with lengths drawn uniformly up to `radius`."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)
    return (direction * radius * torch.rand(*shape[:-1], 1, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.fixture(name="tangents")
def tangents_fixture() -> Callable[..., Tensor]:
    return tangents
