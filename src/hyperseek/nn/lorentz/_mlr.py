"""Multinomial logistic regression on the hyperboloid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperseek.nn.lorentz._norms import wide_dtype

# The length of a normal is divided by; a class whose normal is zero has logit zero.
_SMALLEST = 1e-12


class LorentzMLR(nn.Module):
    """Score points by their signed distance from one hyperplane for each class.

    "Fully Hyperbolic Convolutional Neural Networks for Computer Vision", arXiv 2303.15919, section 4.3. The hyperplane
    of a class has the normal `z` and lies `a` away from the origin; its logit is the distance times `|z|`.

    Args:
        size: Coordinates of a point, time included.
        classes: Number of classes.
    """

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(classes))
        self.z = nn.Parameter(torch.empty(classes, size - 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw normals and offsets uniformly, within 1 / sqrt(size - 1)."""
        bound = self.z.shape[1] ** -0.5
        nn.init.uniform_(self.z, -bound, bound)
        nn.init.uniform_(self.a, -bound, bound)

    def forward(self, points: Tensor, radius_squared: float | Tensor = 1.0) -> Tensor:
        """Return the logits `(..., classes)` of `(..., d)` points, float32 or wider."""
        dtype = wide_dtype(points)
        radius = torch.as_tensor(radius_squared, dtype=dtype, device=points.device).sqrt()
        normals, offsets = self.z.to(dtype), self.a.to(dtype)[:, None] / radius
        length = torch.linalg.vector_norm(normals, dim=1, keepdim=True).clamp_min(_SMALLEST)
        planes = torch.cat([-torch.sinh(offsets) * length, torch.cosh(offsets) * normals], dim=1)
        # The product is the one large step, and in the weights' precision; asinh is not.
        products = nn.functional.linear(points.to(self.z.dtype), planes.to(self.z.dtype)).to(dtype)
        scales = radius * length[:, 0]
        logits: Tensor = scales * torch.asinh(products / scales)
        return logits
