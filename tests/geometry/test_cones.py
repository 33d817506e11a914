"""Cones and angles against the Lorentz model's own formulas in high precision, and at their borders."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperseek.geometry import exterior_angle, half_aperture
from hyperseek.geometry.polar import lorentz_to_polar

radii = st.floats(0.01, 12)
angles = st.floats(1e-4, math.pi - 1e-4)


def polar(rho: float, angle: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([[math.cos(angle), math.sin(angle), rho, 0.0]], dtype=dtype)


def truth(rho: float, sigma: float, angle: float) -> float:
    """Return MERU's exterior angle (arXiv 2304.09172, equation 7) of two points of the hyperboloid, with 50 digits."""
    with mpmath.workdps(50):
        x0, xs, y0, ys = mpmath.cosh(rho), mpmath.sinh(rho), mpmath.cosh(sigma), mpmath.sinh(sigma)
        inner = xs * ys * mpmath.cos(mpmath.mpf(angle)) - x0 * y0
        cosine = (y0 + x0 * inner) / (xs * mpmath.sqrt(inner**2 - 1))
        return float(mpmath.acos(max(min(cosine, mpmath.mpf(1)), mpmath.mpf(-1))))


@settings(deadline=None, max_examples=100)
@given(rho=radii, sigma=radii, angle=angles, dtype=st.sampled_from([torch.float64, torch.float32]))
def test_the_exterior_angle_is_that_of_meru(rho: float, sigma: float, angle: float, dtype: torch.dtype) -> None:
    rho, sigma, angle = (float(torch.tensor(value, dtype=dtype)) for value in (rho, sigma, angle))
    found = exterior_angle(polar(rho, 0, dtype), polar(sigma, angle, dtype)).item()
    tolerance = 1e-7 if dtype == torch.float64 else 2e-3
    if abs(rho - sigma) + angle < 1e-2:  # two points that are nearly one have no direction between them
        return
    # The angle depends on the points so strongly far out that a rounding of the angle at the origin shows.
    slack = tolerance + (2e-7 if dtype == torch.float32 else 1e-15) * math.exp(min(rho, sigma))
    assert found == pytest.approx(truth(rho, sigma, angle), abs=slack)


@pytest.mark.parametrize(("rho", "sigma", "angle", "wanted"), [(1, 2, 0, 0), (2, 1, 0, math.pi), (1, 1, 0, 0)])
def test_points_of_one_ray(rho: float, sigma: float, angle: float, wanted: float) -> None:
    assert exterior_angle(polar(rho, 0), polar(sigma, angle)).item() == pytest.approx(wanted, abs=1e-9)


def test_apertures_are_those_of_the_arcsine() -> None:
    rho = torch.tensor([0.0, 0.1, 0.198, 0.2, 0.5, 3.0, 12.0, 60.0], dtype=torch.float64)
    points = torch.stack([torch.ones_like(rho), torch.zeros_like(rho), rho, torch.zeros_like(rho)], 1)
    wanted = torch.asin((2 * 0.1 / torch.sinh(rho).clamp_min(1e-12)).clamp(max=1))
    assert torch.allclose(half_aperture(points)[:7], wanted[:7], atol=1e-9)
    assert 0 <= half_aperture(points)[7] < 1e-12
    assert half_aperture(points, least_radius=0.01)[1] < half_aperture(points)[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_points_meet_and_at_the_origin(dtype: torch.dtype) -> None:
    space = torch.tensor([[0.0, 0.0], [1e-8, 0.0], [0.2, 0.0], [3.0, 4.0], [-3.0, -4.0], [2e3, 0.0]], dtype=dtype)
    tips = space[:, None].expand(6, 6, 2).reshape(-1, 2).clone().requires_grad_()
    others = space[None].expand(6, 6, 2).reshape(-1, 2).clone().requires_grad_()
    points = []
    for part in (tips, others):
        time = (1 + part.square().sum(1, keepdim=True)).sqrt()
        points.append(lorentz_to_polar(torch.cat([time, part], 1)))
    values = exterior_angle(*points) - half_aperture(points[0])
    assert values.isfinite().all()
    values.sum().backward()
    assert tips.grad is not None
    assert tips.grad.isfinite().all()
    assert others.grad is not None
    assert others.grad.isfinite().all()
