"""Gradients: against finite differences, against float64, at the kinks of lengths, and on a hundred thousand points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from hyperseek import geometry
from hyperseek.geometry._midpoints import einstein_midpoint, outward_weights

Tangents = Callable[..., Tensor]
Function = Callable[[Tensor, Tensor, Tensor], Tensor]  # of space parts (n, d) twice, and of R²


def lift(space: Tensor, r2: Tensor | float) -> Tensor:
    return geometry.lorentz_from_space(space, r2)


def tangent_at(point: Tensor, space: Tensor) -> Tensor:
    """Complete a space part by the time that makes it tangent."""
    return torch.cat([(point[..., 1:] * space).sum(-1, keepdim=True) / point[..., :1], space], dim=-1)


def ball(space: Tensor, r2: Tensor) -> Tensor:
    return geometry.lorentz_to_poincare(lift(space, r2), r2)


# Each of two sets of space coordinates and the curvature, so that gradients reach all three.
FUNCTIONS: dict[str, Function] = {
    "inner": lambda x, y, r2: geometry.lorentz_inner(lift(x, r2), lift(y, r2)),
    "inner_matrix": lambda x, y, r2: geometry.lorentz_inner_matrix(lift(x, r2), lift(y, r2)),
    "distance": lambda x, y, r2: geometry.lorentz_distance(lift(x, r2), lift(y, r2), r2),
    "distance_matrix": lambda x, y, r2: geometry.lorentz_distance_matrix(lift(x, r2), lift(y, r2), r2),
    "squared": lambda x, y, r2: geometry.lorentz_squared_distance_matrix(lift(x, r2), lift(y, r2), r2),
    "expmap0": lambda x, y, r2: geometry.lorentz_expmap0(x, r2) + 0 * y.sum(),
    "logmap0": lambda x, y, r2: geometry.lorentz_logmap0(lift(x, r2), r2) + 0 * y,
    "expmap": lambda x, y, r2: geometry.lorentz_expmap(
        lift(x, r2), tangent_at(lift(x, r2), torch.nn.functional.normalize(y, dim=-1)), r2
    ),
    "logmap": lambda x, y, r2: geometry.lorentz_logmap(lift(x, r2), lift(y, r2), r2),
    "transport": lambda x, y, r2: geometry.lorentz_transport(
        lift(x, r2), lift(y, r2), tangent_at(lift(x, r2), torch.nn.functional.normalize(y, dim=-1)), r2
    ),
    "project": lambda x, y, r2: geometry.lorentz_project(lift(x, r2) + lift(y, r2), r2),
    "normalise": lambda x, y, r2: geometry.lorentz_normalise(lift(x, r2) + lift(y, r2), r2),
    "to_poincare": lambda x, y, r2: ball(x, r2) - ball(y, r2),
    "from_poincare": lambda x, y, r2: geometry.poincare_to_lorentz(ball(x, r2), r2) + 0 * y.sum(),
    "to_klein": lambda x, y, r2: geometry.lorentz_to_klein(lift(x, r2), r2) + 0 * y,
    "from_klein": lambda x, y, r2: (
        geometry.klein_to_lorentz(geometry.lorentz_to_klein(lift(x, r2), r2), r2) + 0 * y.sum()
    ),
    "poincare_expmap0": lambda x, y, r2: geometry.poincare_expmap0(x, 1 / r2) + 0 * y,
    "poincare_logmap0": lambda x, y, r2: geometry.poincare_logmap0(ball(x, r2), 1 / r2) + 0 * y,
    "poincare_project": lambda x, y, r2: geometry.poincare_project(x, 1 / r2) + 0 * y,
    "conformal": lambda x, y, r2: geometry.poincare_conformal_factor(ball(x, r2), 1 / r2) + 0 * y.sum(),
    "mobius_add": lambda x, y, r2: geometry.mobius_add(ball(x, r2), ball(y, r2), 1 / r2),
    "poincare_distance": lambda x, y, r2: geometry.poincare_distance(ball(x, r2), ball(y, r2), 1 / r2),
    "poincare_matrix": lambda x, y, r2: geometry.poincare_distance_matrix(ball(x, r2), ball(y, r2), 1 / r2),
    "centroid": lambda x, y, r2: geometry.lorentz_centroid(lift(x, r2), y.square().sum(-1), None, r2),
    "einstein": lambda x, y, r2: einstein_midpoint(lift(x, r2), radius_squared=r2) + 0 * y.sum(),
    "outward": lambda x, y, r2: (
        geometry.outward_einstein_midpoint(lift(x, r2), power=2.0, saturation=0.5, radius_squared=r2) + 0 * y.sum()
    ),
    "outward_kept": lambda x, y, r2: (
        geometry.outward_einstein_midpoint(lift(x, r2), power=1.5, keep_radius=True, radius_squared=r2) + 0 * y.sum()
    ),
    "weights": lambda x, y, r2: outward_weights(lift(x, r2), radius_squared=r2) + 0 * y.sum(),
}
# Those that are smooth where points are one, or the origin.
SMOOTH = (
    "inner", "inner_matrix", "squared", "expmap0", "logmap0", "logmap", "project", "normalise", "to_poincare",
    "from_poincare", "to_klein", "from_klein", "poincare_expmap0", "poincare_logmap0", "mobius_add",
    "centroid", "einstein", "outward",
)  # fmt: skip


@pytest.mark.parametrize("r2", [0.1, 1.0, 7.5])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_finite_differences(name: str, r2: float, tangents: Tangents) -> None:
    x, y = (tangents(3, 3, radius=1.5 * math.sqrt(r2), seed=s).requires_grad_() for s in (0, 1))
    learned = torch.tensor(r2, dtype=torch.float64, requires_grad=True)
    if name == "poincare_project":  # of points on one side of the border
        x = (x.detach() + 2 * math.sqrt(r2)).requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name], (x, y, learned), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_right_at_the_origin_and_where_points_meet(name: str) -> None:
    x = torch.tensor([[0.0, 0, 0], [0, 0, 0], [0.3, 0, 0.1], [1e-4, 0, 0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0.0, 0, 0], [0.5, 0, 1], [0.3, 0, 0.1], [0, 1e-4, 0]], dtype=torch.float64, requires_grad=True)
    learned = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(FUNCTIONS[name], (x, y, learned), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["distance", "poincare_distance"])
def test_distances_pull_away_from_the_origin_and_rest_where_points_meet(name: str) -> None:
    """The kink of a distance is where both points are one, not where one is the origin."""
    x = torch.tensor([[0.0, 0, 0], [0.4, 0, 0.2], [0, 0, 0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[3.0, 0, 4], [0.4, 0, 0.2], [0, 0, 0]], dtype=torch.float64)
    FUNCTIONS[name](x, y, torch.tensor(1.0)).sum().backward()
    wanted = torch.tensor([[-0.6, 0, -0.8], [0, 0, 0], [0, 0, 0]], dtype=torch.float64)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, wanted)


FAR = ("distance", "distance_matrix", "squared", "logmap0", "centroid", "einstein", "outward", "outward_kept")


@pytest.mark.parametrize("radius", [0.01, 2.0, 9.0])
@pytest.mark.parametrize("name", FAR)
def test_float32_gradients_are_those_of_float64(name: str, radius: float, tangents: Tangents) -> None:
    """In units of length of the space: far out a coordinate is worth less and less of it."""
    found = []
    u, v = (tangents(6, 4, radius=radius, seed=s).float() for s in (0, 1))
    starts = [geometry.lorentz_expmap0(t)[:, 1:] for t in (u, v)]
    weights = torch.randn(6 * 6 * 6, generator=torch.Generator().manual_seed(3))
    for dtype in (torch.float32, torch.float64):
        x, y = (space.detach().clone().to(dtype).requires_grad_() for space in starts)
        r2 = torch.tensor(1.0, dtype=dtype, requires_grad=True)
        value = FUNCTIONS[name](x, y, r2)
        value = value.flatten() / (1 + value.detach().abs().flatten())
        (value * weights[: len(value)].to(dtype)).sum().backward()
        gradients = []
        for point in (x, y):
            if point.grad is None:
                continue
            # Walking out changes coordinates by cosh(radius), and walking across by sinh(radius).
            gradients.append((point.grad * torch.hypot(point.norm(dim=1, keepdim=True), torch.ones(()))).double())
        assert r2.grad is not None
        found.append([gradient.detach() for gradient in (*gradients, r2.grad.double())])
    for single, double in zip(*found, strict=True):
        # The curvature hardly matters to near points: what is left of its gradient are differences.
        slack = 2e-3 * float(double.abs().max()) + 1e-6 * radius
        torch.testing.assert_close(single, double, rtol=2e-3, atol=slack)


# A hundred thousand


def batches(count: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield pairs of batches of points, 10⁵ in all: near, far, twice the same, opposite, the origin and tiny ones."""
    generator = torch.Generator().manual_seed(11)
    for batch, (dimension, r2) in zip(range(count), itertools.cycle(itertools.product((1, 3, 16), (0.1, 1.0, 10.0)))):
        shape = (20, 100_000 // count // 40, dimension)
        scale = 10 ** (8 * torch.rand(*shape[:2], 1, generator=generator) - 4) * math.sqrt(r2)
        x, y = (torch.randn(*shape, generator=generator) * scale for _ in range(2))
        x[0], y[1], x[2], y[3], x[4], y[4] = 0, 0, y[2], -x[3], 0, 0
        x[5] = y[5] * (1 + 1e-7)
        x[6] *= 1e-20
        x[7, :, 1:], y[7, :, 1:] = 0, 0
        x[8] = x[8, :1] * 1.001
        yield x.to(dtype), y.to(dtype), r2 if batch % 2 else r2 * 1.1


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_value_and_no_gradient_is_ever_not_a_number(dtype: torch.dtype, autocast: bool) -> None:
    seen = 0
    for x, y, r2 in batches(20, dtype):
        seen += len(x.flatten(0, 1)) + len(y.flatten(0, 1))
        for name, function in FUNCTIONS.items():
            a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
            learned = torch.tensor(r2, requires_grad=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                value = function(a, b, learned)
                assert value.isfinite().all(), name
                (value / (1 + value.detach().abs())).sum().backward()
            for leaf in (a, b, learned):
                assert leaf.grad is None or leaf.grad.isfinite().all(), (name, dtype, r2)
    assert seen == 100_000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_masks_and_weights_never_make_what_is_not_a_number(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    for x, _, r2 in batches(20, dtype):
        mask = torch.rand(x.shape[:-1], generator=generator) > 0.5
        mask[:3] = False
        scale = 10 ** (40 * torch.rand(20, 1, generator=generator) - 30)
        weights = (torch.rand(x.shape[:-1], generator=generator) * scale).requires_grad_()
        leaf = x.clone().requires_grad_()
        points = geometry.lorentz_from_space(leaf, r2)
        for pooled in (
            geometry.lorentz_centroid(points, weights, mask, r2),
            geometry.outward_einstein_midpoint(points, mask, power=3.0, saturation=0.1, radius_squared=r2),
            geometry.outward_einstein_midpoint(points, mask, power=-2.0, keep_radius=True, radius_squared=r2),
        ):
            assert pooled.isfinite().all()
            torch.testing.assert_close(pooled[:3, 0], torch.full((3,), math.sqrt(r2)))
            (pooled / (1 + pooled.detach().abs())).sum().backward(retain_graph=True)
        for found in (leaf, weights):
            assert found.grad is not None
            assert found.grad.isfinite().all()


@pytest.mark.parametrize("r2", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("radius", [20.0, 40.0])
def test_maps_as_far_out_as_float32_goes_are_finite(radius: float, r2: float) -> None:
    u = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 0.6, 0.8], [0, 0, 0]]) * radius * math.sqrt(r2)
    u.requires_grad_()
    x = geometry.lorentz_expmap0(u, r2)
    base = x[:1].expand_as(x)
    tangent = geometry.lorentz_logmap(base, x, r2)
    # The opposite point is twice as far as the origin, along the same line.
    torch.testing.assert_close(tangent[1], 2 * tangent[3], rtol=1e-5, atol=0)
    ends = [tangent, geometry.lorentz_expmap(base, tangent, r2), geometry.lorentz_transport(base, x, tangent, r2)]
    for end in ends:
        assert end.isfinite().all()
        if radius < 30:  # beyond, what derivatives are multiplied of overflows
            [gradient] = torch.autograd.grad((end / (1 + end.detach().abs())).sum(), u, retain_graph=True)
            assert gradient.isfinite().all()


def test_second_derivatives_are_refused_and_not_wrong(tangents: Tangents) -> None:
    x = geometry.lorentz_expmap0(tangents(4, 3, radius=1.0)).requires_grad_()
    for value in (geometry.lorentz_distance_matrix(x, x), geometry.lorentz_centroid(x)):
        [gradient] = torch.autograd.grad(value.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            gradient.sum().backward()
