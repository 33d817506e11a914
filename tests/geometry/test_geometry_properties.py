"""Identities of hyperbolic geometry, and its functions against 50 digits: dtype x curvature x distance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperseek import HyperseekError, geometry
from hyperseek.geometry._midpoints import einstein_midpoint, outward_weights

CURVATURES = [0.1, 1.0, 7.5]
DTYPES = [torch.float32, torch.float64]
Tangents = Callable[..., Tensor]

every_space = pytest.mark.parametrize(("dtype", "r2"), list(itertools.product(DTYPES, CURVATURES)))


def eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def boost(velocity: Tensor) -> Tensor:
    """Return the Lorentz boost of a velocity shorter than 1."""
    v2 = velocity.square().sum()
    gamma = 1 / (1 - v2).sqrt()
    matrix = torch.eye(len(velocity) + 1, dtype=velocity.dtype)
    matrix[0, 0] = gamma
    matrix[0, 1:] = matrix[1:, 0] = gamma * velocity
    matrix[1:, 1:] += (gamma - 1) * velocity[:, None] * velocity / v2
    return matrix


# Against many digits


def true_distance(x: list[float], y: list[float], r2: float) -> float:
    with mpmath.workdps(60):
        inner = mpmath.fsum(mpmath.mpf(a) * mpmath.mpf(b) for a, b in zip(x, y, strict=True))
        times = [mpmath.sqrt(r2 + mpmath.fsum(mpmath.mpf(a) ** 2 for a in point)) for point in (x, y)]
        return float(mpmath.sqrt(r2) * mpmath.acosh(max((times[0] * times[1] - inner) / r2, mpmath.mpf(1))))


@settings(deadline=None, max_examples=150)
@given(
    rho=st.floats(0, 14),
    step=st.sampled_from([0.0, 1e-6, 1e-3, 0.3, 5.0]),
    turn=st.sampled_from([0.0, 1e-6, 1e-3, 0.5, 2.0, math.pi]),
    r2=st.sampled_from(CURVATURES),
    dtype=st.sampled_from(DTYPES),
)
def test_distances_are_as_exact_as_coordinates(
    rho: float, step: float, turn: float, r2: float, dtype: torch.dtype
) -> None:
    lengths = [math.sqrt(r2) * math.sinh(radius) for radius in (rho, rho + step)]
    space = torch.tensor([[lengths[0], 0, 0], [lengths[1] * math.cos(turn), lengths[1] * math.sin(turn), 0]])
    x, y = geometry.lorentz_from_space(space.to(dtype), r2)
    found = float(geometry.lorentz_distance(x, y, r2))
    wanted = true_distance(x[1:].tolist(), y[1:].tolist(), r2)
    # Rounding turns a point by eps, which moves it by eps sinh(rho); past the chord's bend it shows less.
    moved = math.sqrt(math.sinh(rho) * math.sinh(rho + step)) / math.cosh(wanted / math.sqrt(r2) / 2)
    assert abs(found - wanted) <= 4 * eps(dtype) * math.sqrt(r2) * (rho + 1 + wanted + moved)
    squared = float(geometry.lorentz_squared_distance_matrix(x[None], y[None], r2))
    assert squared == pytest.approx(4 * r2 * math.sinh(found / math.sqrt(r2) / 2) ** 2, rel=1e-4, abs=1e-30)


def true_midpoint(space: Tensor, r2: float, power: float, saturation: float) -> Tensor:
    """Return the space part over R of the outward Einstein midpoint, by its definition with 60 digits."""
    with mpmath.workdps(60):
        points = [[mpmath.mpf(a) / mpmath.sqrt(r2) for a in point] for point in space.tolist()]
        times = [mpmath.sqrt(1 + mpmath.fsum(a**2 for a in point)) for point in points]
        phi = [time**power / (1 + saturation * time**power) for time in times]
        v0 = mpmath.fsum(w * time for w, time in zip(phi, times, strict=True))
        v = [mpmath.fsum(w * p[i] for w, p in zip(phi, points, strict=True)) for i in range(space.shape[1])]
        length = mpmath.sqrt(v0**2 - mpmath.fsum(a**2 for a in v))
        return torch.tensor([float(a / length) for a in v], dtype=torch.float64)


@every_space
@pytest.mark.parametrize("radius", [0.01, 1.0, 5.0, 9.0, 11.0])
@pytest.mark.parametrize(("power", "saturation"), [(0.0, 0.0), (1.0, 0.0), (4.0, 0.0), (2.0, 0.5)])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 3.0])
def test_midpoints_are_exact_far_out(
    dtype: torch.dtype, r2: float, radius: float, power: float, saturation: float, spread: float, tangents: Tangents
) -> None:
    noise = tangents(5, 4, radius=1.0, seed=3)
    direction = torch.nn.functional.normalize(spread * noise + torch.tensor([1.0, 2, -1, 0]), dim=1)
    steps = torch.tensor([[0.0], [0.05], [0.4], [0.9], [1.0]], dtype=torch.float64)
    tangent = direction * (radius - min(radius, 1) * steps) * math.sqrt(r2)
    points = geometry.lorentz_expmap0(tangent.to(dtype), r2)
    pooled = geometry.outward_einstein_midpoint(points, power=power, saturation=saturation, radius_squared=r2)
    wanted = true_midpoint(points[:, 1:], r2, power, saturation)
    found = pooled[1:].double() / math.sqrt(r2)
    # A rounded direction moves a point by eps sinh(radius), which shows in the sum's length where directions differ.
    slack = 30 * (1 + radius) + math.sinh(radius) / 40
    assert (found - wanted).norm() <= slack * eps(dtype) * wanted.norm()


# Inverse maps


@every_space
@pytest.mark.parametrize("radius", [1e-6, 0.1, 2.0, 8.0])
def test_maps_at_the_origin_are_inverse(dtype: torch.dtype, r2: float, radius: float, tangents: Tangents) -> None:
    u = tangents(50, 6, radius=radius * math.sqrt(r2), dtype=dtype)
    points = geometry.lorentz_expmap0(u, r2)
    close = {"rtol": 16 * eps(dtype) * (1 + radius), "atol": 1e-30}
    torch.testing.assert_close(geometry.lorentz_logmap0(points, r2), u, **close)
    origin = geometry.lorentz_from_space(torch.zeros_like(u), r2)
    torch.testing.assert_close(geometry.lorentz_distance(points, origin, r2), u.norm(dim=1), **close)
    # A ball loses a digit of a point for every digit of cosh² of its distance.
    crowded = 16 * eps(dtype) * math.cosh(radius) ** 2
    ball = geometry.poincare_expmap0(u / 2, 1 / r2)
    back = geometry.poincare_logmap0(ball, 1 / r2)
    torch.testing.assert_close(back, u / 2, rtol=crowded, atol=1e-30)
    torch.testing.assert_close(geometry.lorentz_to_poincare(points, r2), ball, **close)
    for found in (
        geometry.poincare_to_lorentz(geometry.lorentz_to_poincare(points, r2), r2),
        geometry.klein_to_lorentz(geometry.lorentz_to_klein(points, r2), r2),
    ):
        if crowded < 0.1:
            torch.testing.assert_close(found, points, rtol=crowded, atol=1e-30)


@every_space
@pytest.mark.parametrize("radius", [0.1, 2.0, 4.0])
def test_maps_elsewhere_are_inverse(dtype: torch.dtype, r2: float, radius: float, tangents: Tangents) -> None:
    scale = math.sqrt(r2)
    x, y = (geometry.lorentz_expmap0(tangents(50, 3, radius=radius * scale, seed=s, dtype=dtype), r2) for s in (0, 1))
    tangent = geometry.lorentz_logmap(x, y, r2)
    # A step from far out to far out passes vectors of cosh² the radius.
    slack = 40 * eps(dtype) * math.cosh(radius) ** 2 * scale
    assert geometry.lorentz_distance(geometry.lorentz_expmap(x, tangent, r2), y, r2).max() <= slack
    assert geometry.lorentz_inner(x, tangent).abs().max() <= slack * scale * math.cosh(radius)
    length = geometry.lorentz_inner(tangent, tangent).clamp_min(0).sqrt()
    torch.testing.assert_close(length, geometry.lorentz_distance(x, y, r2), rtol=2 * slack, atol=slack)
    assert torch.equal(geometry.lorentz_logmap(x, x, r2), torch.zeros_like(x))


# Metric, motions, curvature


@every_space
@pytest.mark.parametrize("radius", [1e-3, 1.0, 10.0])
def test_distances_are_a_metric(dtype: torch.dtype, r2: float, radius: float, tangents: Tangents) -> None:
    scale = math.sqrt(r2)
    x = geometry.lorentz_expmap0(tangents(25, 4, radius=radius * scale, dtype=dtype), r2)
    distance = geometry.lorentz_distance_matrix(x, x, r2)
    assert torch.equal(distance.diagonal(), torch.zeros(25, dtype=dtype))
    torch.testing.assert_close(distance, distance.T, rtol=4 * eps(dtype), atol=0)
    assert (distance + torch.eye(25, dtype=dtype) > 0).all()
    detour = distance[:, :, None] + distance[None]
    assert (distance[:, None] <= detour + 8 * eps(dtype) * scale * radius * (1 + math.sinh(radius))).all()


@pytest.mark.parametrize("size", [384, 2560])
def test_points_of_many_dimensions_have_no_distance_from_themselves(size: int) -> None:
    space = torch.randn(8, size, generator=torch.Generator().manual_seed(0))
    space[0] = 0.3  # whose errors of summation all have one sign
    x = geometry.lorentz_from_space(space * 1e3)
    assert torch.equal(geometry.lorentz_distance_matrix(x, x.clone()).diagonal(), torch.zeros(8))
    near = geometry.lorentz_from_space(space * 1e3 * (1 + 1e-7 * torch.arange(size)))
    wanted = geometry.lorentz_distance(x.double(), near.double())
    torch.testing.assert_close(geometry.lorentz_distance(x, near).double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("r2", CURVATURES)
def test_motions_keep_distances_and_carry_midpoints(r2: float, tangents: Tangents) -> None:
    x = geometry.lorentz_expmap0(tangents(20, 3, radius=3 * math.sqrt(r2)), r2)
    weights = torch.rand(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rotation = torch.eye(4, dtype=torch.float64)
    rotation[1:, 1:] = torch.linalg.qr(tangents(3, 3, radius=1.0, seed=5)).Q
    motion = boost(torch.tensor([0.3, -0.6, 0.1], dtype=torch.float64)) @ rotation
    moved = x @ motion.T
    torch.testing.assert_close(geometry.lorentz_project(moved, r2), moved)
    distance = geometry.lorentz_distance_matrix(x, x, r2)
    torch.testing.assert_close(geometry.lorentz_distance_matrix(moved, moved, r2), distance, atol=1e-7, rtol=0)
    centroid = geometry.lorentz_centroid(x, weights, None, r2)
    torch.testing.assert_close(geometry.lorentz_centroid(moved, weights, None, r2), centroid @ motion.T)
    tangent = geometry.lorentz_logmap(x, x.flip(0), r2)
    torch.testing.assert_close(geometry.lorentz_logmap(moved, moved.flip(0), r2), tangent @ motion.T)
    # Transport along a geodesic keeps its direction, and all products.
    carried = geometry.lorentz_transport(x, x.flip(0), tangent, r2)
    torch.testing.assert_close(carried, -tangent.flip(0), atol=1e-7, rtol=1e-7)
    other = geometry.lorentz_logmap(x, x.roll(1, 0), r2)
    product = geometry.lorentz_inner(carried, geometry.lorentz_transport(x, x.flip(0), other, r2))
    torch.testing.assert_close(product, geometry.lorentz_inner(tangent, other), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("c", CURVATURES)
def test_mobius_addition_is_a_motion(c: float, tangents: Tangents) -> None:
    x, y, z = (geometry.poincare_expmap0(tangents(20, 3, radius=1.5 / math.sqrt(c), seed=s), c) for s in range(3))
    moved = geometry.poincare_distance(geometry.mobius_add(z, x, c), geometry.mobius_add(z, y, c), c)
    torch.testing.assert_close(moved, geometry.poincare_distance(x, y, c))
    torch.testing.assert_close(geometry.mobius_add(-x, geometry.mobius_add(x, y, c), c), y)
    torch.testing.assert_close(geometry.mobius_add(x, torch.zeros_like(x), c), x)
    lorentz = geometry.lorentz_distance_matrix(*(geometry.poincare_to_lorentz(p, 1 / c) for p in (x, y)), 1 / c)
    torch.testing.assert_close(geometry.poincare_distance_matrix(x, y, c), lorentz)


@every_space
def test_curvature_only_scales(dtype: torch.dtype, r2: float, tangents: Tangents) -> None:
    radius = math.sqrt(r2)
    u, v = (tangents(6, 8, 3, radius=4.0, seed=s, dtype=dtype) for s in (0, 1))
    x, y = geometry.lorentz_expmap0(u), geometry.lorentz_expmap0(v)
    close = {"rtol": 64 * eps(dtype), "atol": 64 * eps(dtype)}
    torch.testing.assert_close(geometry.lorentz_expmap0(radius * u, r2), radius * x, **close)
    distance = geometry.lorentz_distance_matrix(x, y)
    slack = {"rtol": 64 * eps(dtype), "atol": 512 * eps(dtype)}  # scaled points are rounded once more
    torch.testing.assert_close(geometry.lorentz_distance_matrix(radius * x, radius * y, r2), radius * distance, **slack)
    for power in (0.0, 2.0):
        pooled = geometry.outward_einstein_midpoint(radius * x, power=power, radius_squared=r2)
        unscaled = radius * geometry.outward_einstein_midpoint(x, power=power)
        torch.testing.assert_close(pooled, unscaled, rtol=1000 * eps(dtype), atol=100 * eps(dtype))
    learned = torch.tensor(r2, dtype=torch.float64)
    assert torch.equal(geometry.lorentz_logmap0(radius * x, learned), geometry.lorentz_logmap0(radius * x, r2))


# Ambient vectors


@every_space
def test_normalising_returns_scaled_points_and_survives_others(
    dtype: torch.dtype, r2: float, tangents: Tangents
) -> None:
    x = geometry.lorentz_expmap0(tangents(30, 3, radius=2 * math.sqrt(r2), dtype=dtype), r2)
    close = {"rtol": 300 * eps(dtype), "atol": 300 * eps(dtype)}
    for factor in (1e-3, 1.0, 50.0):
        torch.testing.assert_close(geometry.lorentz_normalise(factor * x, r2), x, **close)
    torch.testing.assert_close(geometry.lorentz_normalise(x.mean(0), r2), geometry.lorentz_centroid(x, None, None, r2))
    others = torch.tensor([[0.0, 0, 0], [1, 1, 0], [1, 3, 0], [-2, 0, 1]], dtype=dtype)
    found = geometry.lorentz_normalise(others, r2)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], found.new_tensor([math.sqrt(r2), 0, 0]))
    torch.testing.assert_close(found, geometry.lorentz_project(found, r2))


# Outward, masked


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    radius=st.sampled_from([0.1, 2.0, 9.0]),
    saturation=st.sampled_from([0.0, 0.5, 10.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_keeping_the_radius_is_outward(seed: int, radius: float, saturation: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    u = u / u.norm(dim=1, keepdim=True) * radius * torch.rand(6, 1, generator=generator, dtype=torch.float64)
    x = geometry.lorentz_expmap0(u.to(dtype))
    previous = max(float(x[:, 0].mean()), math.cosh(float(u.norm(dim=1).mean())))
    for power in (0.0, 0.5, 1.0, 3.0, 30.0):
        kept = geometry.outward_einstein_midpoint(x, power=power, saturation=saturation, keep_radius=True)
        assert float(kept[0]) >= previous * (1 - 16 * eps(dtype))
        assert float(kept[0]) <= float(x[:, 0].max()) * (1 + 8 * eps(dtype))
        free = geometry.outward_einstein_midpoint(x, power=power, saturation=saturation)
        along = torch.nn.functional.cosine_similarity(kept[1:], free[1:], dim=0)
        assert along == pytest.approx(1, abs=1e-4)
        # With saturation the farthest stop gaining weight first, so a larger power may lead inward again.
        previous = max(previous, float(kept[0])) if saturation == 0 else previous


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_points_do_not_count_whatever_they_hold(dtype: torch.dtype, tangents: Tangents) -> None:
    x = geometry.lorentz_expmap0(tangents(4, 5, 3, radius=3.0, dtype=dtype))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    spoilt = torch.where(mask.bool()[..., None], x, torch.nan).requires_grad_()
    poolings: list[Callable[[Tensor, Tensor | None], Tensor]] = [
        lambda x, mask: geometry.lorentz_centroid(x, None, mask),
        lambda x, mask: geometry.lorentz_centroid(x, torch.full(x.shape[:-1], 1e-38), mask),
        einstein_midpoint,
        geometry.outward_einstein_midpoint,
        lambda x, mask: geometry.outward_einstein_midpoint(x, mask, power=900.0, keep_radius=True),
        lambda x, mask: geometry.outward_einstein_midpoint(x, mask, saturation=1e6),
    ]
    for pool in poolings:
        pooled = pool(spoilt, mask)
        torch.testing.assert_close(pooled[1], pool(x[1, [0, 2]], None))
        torch.testing.assert_close(pooled[2], x[2, 4])
        assert torch.equal(pooled[3], pooled.new_tensor([1, 0, 0, 0]))
        spoilt.grad = None
        pooled.square().sum().backward()
        assert spoilt.grad is not None
        assert spoilt.grad.isfinite().all()
        assert spoilt.grad[3].abs().sum() == 0
    assert torch.equal(outward_weights(x, mask)[3], torch.zeros(5, dtype=dtype))
    for pool in poolings:
        assert torch.equal(pool(x[:, :0], mask[:, :0]), x.new_tensor([1, 0, 0, 0]).expand(4, 4))


# Precision and arguments


def test_half_precision_and_autocast_are_computed_in_float32(tangents: Tangents) -> None:
    u = tangents(10, 6, radius=4.0, dtype=torch.bfloat16).requires_grad_()
    outside = geometry.lorentz_expmap0(u)
    exact = geometry.lorentz_distance_matrix(outside, outside)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        points = geometry.lorentz_expmap0(u)
        found = geometry.lorentz_distance_matrix(points, points)
        product = geometry.lorentz_inner_matrix(points, points)
        found.sum().backward()
    assert points.dtype == found.dtype == product.dtype == torch.float32
    assert torch.equal(points, outside)
    assert torch.equal(found, exact)
    assert torch.equal(product, geometry.lorentz_inner_matrix(outside, outside))
    assert u.grad is not None
    within, u.grad = u.grad, None
    exact.sum().backward()
    assert torch.equal(within, u.grad)


def test_float64_of_any_argument_is_kept() -> None:
    x = geometry.lorentz_expmap0(torch.ones(2, 3))
    assert x.dtype == torch.float32
    assert geometry.lorentz_distance(x, x.double()).dtype == torch.float64
    assert geometry.lorentz_expmap0(torch.ones(2, 3), torch.tensor(2.0, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.inf, math.nan])
def test_curvatures_that_are_none_are_refused(wrong: float) -> None:
    with pytest.raises(HyperseekError, match="positive finite number"):
        geometry.lorentz_expmap0(torch.ones(3), wrong)
    with pytest.raises(HyperseekError, match="0-dim tensor"):
        geometry.lorentz_expmap0(torch.ones(3), torch.ones(3))
    with pytest.raises(HyperseekError, match="saturation at least 0"):
        geometry.outward_einstein_midpoint(torch.ones(2, 3), saturation=-1.0)
