"""The whole range of numbers: every function of points from 1e-45 to 1e30, of curvatures from 1e-4 to 1e4."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor

from hyperseek import geometry
from hyperseek.errors import InputError
from hyperseek.geometry._midpoints import einstein_midpoint, outward_weights
from hyperseek.geometry.euclidean import (
    balanced_documents,
    balanced_queries,
    cosine_similarity,
    negative_distance,
    paraboloid_documents,
    paraboloid_queries,
    unit_vectors,
)
from hyperseek.geometry.polar import (
    ball_centres,
    cone_excess,
    cone_excess_own,
    half_chord,
    half_chord_own,
    lorentz_to_polar,
    poincare_to_polar,
    polar_between,
    polar_distance,
    polar_distance_own,
    polar_to_lorentz,
    polar_to_poincare,
    split_polar,
    tangent_to_polar,
    uneven_terms,
)

MAGNITUDES = (1e-45, 1e-40, 1e-20, 1e-4, 1.0, 1e3, 1e9, 1e18, 1e20, 1e30)
CURVATURES = (1e-4, 1.0, 1e4)
Function = Callable[[Tensor, Tensor, Tensor], Tensor]  # of two times (n, d) numbers, and of R²


def lift(space: Tensor, r2: Tensor | float) -> Tensor:
    return geometry.lorentz_from_space(space, r2)


def polar(space: Tensor, r2: Tensor | float) -> Tensor:
    return lorentz_to_polar(lift(space, r2), r2)  # type: ignore[arg-type]


def tangent(point: Tensor, space: Tensor) -> Tensor:
    return torch.cat([(point[..., 1:] / point[..., :1] * space).sum(-1, keepdim=True), space], dim=-1)


FUNCTIONS: dict[str, Function] = {
    "balanced_documents": lambda x, y, r2: balanced_documents(x, float(x.detach().double().norm()) or 1.0),
    "balanced_queries": lambda x, y, r2: balanced_queries(x),
    "ball_centres": lambda x, y, r2: ball_centres(polar(x, r2), y[:, 0].abs(), 1 / r2),  # type: ignore[arg-type]
    "cone_excess": lambda x, y, r2: cone_excess(polar(x, r2), polar(y, r2)),
    "cone_excess_own": lambda x, y, r2: cone_excess_own(polar(x, r2), polar(y, r2)[:, None]),
    "cosine_similarity": lambda x, y, r2: cosine_similarity(x, y),
    "einstein_midpoint": lambda x, y, r2: einstein_midpoint(lift(x, r2), radius_squared=r2),
    "exterior_angle": lambda x, y, r2: geometry.exterior_angle(polar(x, r2), polar(y, r2)),
    "half_aperture": lambda x, y, r2: geometry.half_aperture(polar(x, r2)),
    "half_chord": lambda x, y, r2: half_chord(polar(x, r2), polar(y, r2)),
    "half_chord_own": lambda x, y, r2: half_chord_own(polar(x, r2), polar(y, r2)[:, None]),
    "inner_product": lambda x, y, r2: geometry.inner_product(x, y),
    "klein_to_lorentz": lambda x, y, r2: geometry.klein_to_lorentz(x, r2),
    "lorentz_centroid": lambda x, y, r2: geometry.lorentz_centroid(lift(x, r2), y[:, 0].abs(), None, r2),
    "lorentz_distance": lambda x, y, r2: geometry.lorentz_distance(lift(x, r2), lift(y, r2), r2),
    "lorentz_distance_matrix": lambda x, y, r2: geometry.lorentz_distance_matrix(lift(x, r2), lift(y, r2), r2),
    "lorentz_expmap": lambda x, y, r2: geometry.lorentz_expmap(lift(x, r2), tangent(lift(x, r2), y), r2),
    "lorentz_expmap0": lambda x, y, r2: geometry.lorentz_expmap0(x, r2),
    "lorentz_from_space": lambda x, y, r2: geometry.lorentz_from_space(x, r2),
    "lorentz_inner": lambda x, y, r2: geometry.lorentz_inner(lift(x, r2), lift(y, r2)),
    "lorentz_inner_matrix": lambda x, y, r2: geometry.lorentz_inner_matrix(lift(x, r2), lift(y, r2)),
    "lorentz_logmap": lambda x, y, r2: geometry.lorentz_logmap(lift(x, r2), lift(y, r2), r2),
    "lorentz_logmap0": lambda x, y, r2: geometry.lorentz_logmap0(lift(x, r2), r2),
    "lorentz_normalise": lambda x, y, r2: geometry.lorentz_normalise(torch.cat([y[:, :1], x], dim=1), r2),
    "lorentz_project": lambda x, y, r2: geometry.lorentz_project(lift(x, r2), r2),
    "lorentz_squared_distance_matrix": lambda x, y, r2: geometry.lorentz_squared_distance_matrix(
        lift(x, r2), lift(y, r2), r2
    ),
    "lorentz_to_klein": lambda x, y, r2: geometry.lorentz_to_klein(lift(x, r2), r2),
    "lorentz_to_poincare": lambda x, y, r2: geometry.lorentz_to_poincare(lift(x, r2), r2),
    "lorentz_to_polar": lambda x, y, r2: polar(x, r2),
    "lorentz_transport": lambda x, y, r2: geometry.lorentz_transport(
        lift(x, r2), lift(y, r2), tangent(lift(x, r2), y.flip(0)), r2
    ),
    "mobius_add": lambda x, y, r2: geometry.mobius_add(x, y, 1 / r2),
    "negative_distance": lambda x, y, r2: negative_distance(x, y),
    "outward_einstein_midpoint": lambda x, y, r2: geometry.outward_einstein_midpoint(
        lift(x, r2), power=-30.0, saturation=0.5, keep_radius=True, radius_squared=r2
    ),
    "outward_weights": lambda x, y, r2: outward_weights(lift(x, r2), power=1e300, radius_squared=r2),
    "paraboloid_documents": lambda x, y, r2: paraboloid_documents(x),
    "paraboloid_queries": lambda x, y, r2: paraboloid_queries(x),
    "poincare_conformal_factor": lambda x, y, r2: geometry.poincare_conformal_factor(x, 1 / r2),
    "poincare_distance": lambda x, y, r2: geometry.poincare_distance(x, y, 1 / r2),
    "poincare_distance_matrix": lambda x, y, r2: geometry.poincare_distance_matrix(x, y, 1 / r2),
    "poincare_expmap0": lambda x, y, r2: geometry.poincare_expmap0(x, 1 / r2),
    "poincare_logmap0": lambda x, y, r2: geometry.poincare_logmap0(x, 1 / r2),
    "poincare_project": lambda x, y, r2: geometry.poincare_project(x, 1 / r2),
    "poincare_to_lorentz": lambda x, y, r2: geometry.poincare_to_lorentz(x, r2),
    "poincare_to_polar": lambda x, y, r2: poincare_to_polar(geometry.poincare_project(x, 1 / r2), 1 / r2),  # type: ignore[arg-type]
    "polar_between": lambda x, y, r2: polar_between(polar(x, r2), polar(y, r2), torch.full((len(x),), 0.3)),
    "polar_distance": lambda x, y, r2: polar_distance(polar(x, r2), polar(y, r2), r2),  # type: ignore[arg-type]
    "polar_distance_own": lambda x, y, r2: polar_distance_own(polar(x, r2), polar(y, r2)[:, None], r2),  # type: ignore[arg-type]
    "polar_to_lorentz": lambda x, y, r2: polar_to_lorentz(polar(x, r2), r2),  # type: ignore[arg-type]
    "polar_to_poincare": lambda x, y, r2: polar_to_poincare(polar(x, r2), 1 / r2),  # type: ignore[arg-type]
    "split_polar": lambda x, y, r2: torch.cat(split_polar(polar(x, r2)), dim=-1),
    "tangent_to_polar": lambda x, y, r2: tangent_to_polar(x, 1 / r2),  # type: ignore[arg-type]
    "uneven_terms": lambda x, y, r2: uneven_terms(polar(x, r2)),
    "unit_vectors": lambda x, y, r2: unit_vectors(x),
}
# Their gradient is 1 / M and its largest terms' root in the denominator: of documents, which nothing is trained by.
WITHOUT_GRADIENT = ("balanced_documents",)


def points(first: float, second: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return random points of two lengths, some of which are one, opposite, nearly one, or the origin."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    x, y = x / x.norm(dim=1, keepdim=True) * first, y / y.norm(dim=1, keepdim=True) * second
    y[0], y[1], y[2] = x[0], -x[1], x[2] * (1 + 1e-6)
    x[3], y[4], x[5], y[5] = 0, 0, 0, 0
    return x.to(dtype), y.to(dtype)


def test_every_public_function_is_tried() -> None:
    homes = [getattr(geometry, name) for name in ("euclidean", "polar", "_lorentz", "_midpoints", "_poincare")]
    defined = {
        name
        for home in homes
        for name, value in vars(home).items()
        if inspect.isfunction(value) and value.__module__ == home.__name__ and not name.startswith("_")
    }
    assert set(geometry.__all__) <= defined
    assert set(FUNCTIONS) == defined - {"half_chord_matrix", "horizon_gap", "space_part"}


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_finite_at_every_size(name: str, every: bool) -> None:
    few, wide = (1e-45, 1e-20, 1.0, 1e20, 1e30), (torch.float32, torch.float64)
    for dtype, r2, first, second in (
        itertools.product(wide, CURVATURES, MAGNITUDES, MAGNITUDES)
        if every
        # float64 holds the squares of all these sizes, so that float32 alone will do.
        else itertools.product(wide[:1], (1e-4, 1e4), few, (1e-45, 1e30))
    ):
        x, y = (leaf.requires_grad_() for leaf in points(first, second, dtype))
        learned = torch.tensor(r2, dtype=dtype, requires_grad=True)
        value = FUNCTIONS[name](x, y, learned)
        case = (name, dtype, r2, first, second)
        assert value.dtype == dtype, case
        assert value.isfinite().all(), case
        if not value.requires_grad or name in WITHOUT_GRADIENT:
            continue
        (value / (1 + value.detach().abs())).sum().backward()
        for leaf in (x, y, learned):
            assert leaf.grad is None or leaf.grad.isfinite().all(), case


# What float32 keeps at every size; the others lose what their docstrings say.
EXACT = (
    "unit_vectors", "cosine_similarity", "negative_distance", "lorentz_from_space", "lorentz_logmap0",
    "lorentz_to_poincare", "lorentz_to_klein", "lorentz_to_polar",
    "polar_to_poincare", "poincare_project", "poincare_expmap0", "balanced_queries",
)  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_float32_is_as_float64_at_every_size(name: str) -> None:
    for r2, first, second in itertools.product((1e-4, 1e4), MAGNITUDES, (1e-40, 1e18)):
        x, y = points(first, second, torch.float32)
        found = FUNCTIONS[name](x, y, torch.tensor(r2)).double()
        wanted = FUNCTIONS[name](x.double(), y.double(), torch.tensor(r2, dtype=torch.float64))
        if name == "lorentz_to_polar":  # which splits a radius in two, at a place that rounding moves
            found, wanted = (torch.cat(split_polar(value), dim=-1) for value in (found, wanted))
        # Rows by their own size: nothing small hides behind something large. Below 1e-38 float32 has fewer digits.
        size = wanted.abs().amax(1, keepdim=True)
        assert ((found - wanted).abs() <= 2e-5 * size + 1e-43 * (1 + math.sqrt(r2))).all(), (name, r2, first, second)


def test_inverse_maps_and_symmetry_at_every_size() -> None:
    for dtype, r2, size in itertools.product((torch.float32, torch.float64), (1e-4, 1e4), MAGNITUDES):
        x, y = points(size, size, dtype)
        close = {"rtol": 2000 * torch.finfo(dtype).eps, "atol": 1e-43 * (1 + math.sqrt(r2))}
        lifted = geometry.lorentz_from_space(x, r2)
        if size <= 1e9:  # what 40 R bound
            torch.testing.assert_close(
                geometry.lorentz_expmap0(geometry.lorentz_logmap0(lifted, r2), r2), lifted, **close
            )
            back = polar_to_lorentz(lorentz_to_polar(lifted, r2), r2)
            torch.testing.assert_close(back, lifted, **close)
        matrix = geometry.lorentz_distance_matrix(lifted, geometry.lorentz_from_space(y, r2), r2)
        other = geometry.lorentz_distance_matrix(geometry.lorentz_from_space(y, r2), lifted, r2)
        torch.testing.assert_close(matrix, other.T, rtol=1e-6, atol=1e-44)
        chord = half_chord(polar(x, r2), polar(y, r2))
        torch.testing.assert_close(chord, half_chord(polar(y, r2), polar(x, r2)).T, rtol=1e-6, atol=0)
        assert torch.equal(negative_distance(x, y), negative_distance(y, x).T)
        assert torch.equal(geometry.lorentz_distance(lifted, lifted, r2), torch.zeros(6, dtype=dtype))
        still = geometry.lorentz_expmap(lifted, torch.zeros_like(lifted), r2)
        torch.testing.assert_close(still, lifted, **close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distances_are_true_from_1e_minus_40_to_1e30(dtype: torch.dtype) -> None:
    for r2, first, second in itertools.product(
        CURVATURES, (1e-40, 1e-20, 1.0, 1e9, 1e20, 1e30), (1e-30, 1.0, 1e18, 1e30)
    ):
        x, y = torch.tensor([[first, 0.0]], dtype=dtype), torch.tensor([[0.6 * second, -0.8 * second]], dtype=dtype)
        with mpmath.workdps(120):
            a, b = ([mpmath.mpf(number) for number in point[0].tolist()] for point in (x, y))
            inner = mpmath.fsum(p * q for p, q in zip(a, b, strict=True))
            time = mpmath.sqrt((r2 + mpmath.fsum(p**2 for p in a)) * (r2 + mpmath.fsum(q**2 for q in b)))
            wanted = float(mpmath.sqrt(r2) * mpmath.acosh((time - inner) / r2))
        found = geometry.lorentz_distance(lift(x, r2), lift(y, r2), r2)
        assert float(found) == pytest.approx(wanted, rel=32 * torch.finfo(dtype).eps), (r2, first, second)
        chord = half_chord(polar(x, r2), polar(y, r2))
        own = 2 * math.sqrt(r2) * math.asinh(float(chord))
        assert own == pytest.approx(wanted, rel=200 * torch.finfo(dtype).eps), (r2, first, second)


def test_the_exterior_angle_has_gradients_at_the_origin() -> None:
    for size in (1e-45, 1e-38, 1e-30, 1e-20, 1e-10):
        tip = torch.tensor([[1.0, 0, size, 0]], requires_grad=True)
        other = torch.tensor([[0.6, 0.8, 2 * size, 0]], requires_grad=True)
        geometry.exterior_angle(tip, other).sum().backward()
        assert tip.grad is not None
        assert other.grad is not None
        assert tip.grad.isfinite().all()
        assert other.grad.isfinite().all()
        if size > 1e-30:  # atan2(2 · 0.8, 2 · 0.6 - 1), as in the plane
            assert float(geometry.exterior_angle(tip, other).detach()) == pytest.approx(math.atan2(1.6, 0.2), rel=1e-3)


def test_points_outside_a_ball_are_its_border() -> None:
    inside = torch.tensor([[0.3, 0.1, 0.0]])
    for size in (1.0, 1.5, 1e20, 1e38):
        outside = torch.tensor([[0.0, size, 0.0]])
        assert geometry.poincare_distance(inside, outside).item() == pytest.approx(17.6, abs=1.5)
        assert geometry.mobius_add(inside, outside).norm() <= 1
        assert geometry.poincare_to_lorentz(outside).isfinite().all()
        assert geometry.klein_to_lorentz(outside)[0, 2] > 100


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_given_wrongly_is_an_input_error_or_works(name: str) -> None:
    good = torch.eye(6, 3)
    bad: list[tuple[Tensor, Tensor]] = [
        (good, torch.ones(6, 4)),
        (good, torch.ones(5, 3)),
        (torch.ones(6, 0), torch.ones(6, 0)),
        (torch.ones(0, 3), torch.ones(0, 3)),
        (torch.tensor(1.0), torch.tensor(1.0)),
        (torch.ones(3), torch.ones(3)),
        (torch.ones(6, 3, dtype=torch.int64), torch.ones(6, 3, dtype=torch.int64)),
        (good.half(), good.bfloat16()),
        (good.to(torch.complex64), good.to(torch.complex64)),
        (good, good.double()),
        (torch.full((6, 3), torch.nan), good),
        (good, torch.full((6, 3), torch.inf)),
    ]
    homes = (geometry.euclidean, geometry.polar, geometry._midpoints, geometry)
    bare = next(getattr(home, name) for home in homes if hasattr(home, name))
    for x, y in bad:
        given = (x,) if name in ONE else (x, 1.0) if name == "balanced_documents" else (x, y)
        further = {"lorentz_transport": (y,), "polar_between": (torch.tensor(0.3),)}.get(name, ())
        with contextlib.suppress(InputError):
            bare(*given, *further)


ONE = {
    name
    for name in FUNCTIONS
    if name.startswith(("lorentz_to", "poincare_to", "polar_to", "klein", "outward", "balanced_q", "parab"))
    or name
    in (
        "lorentz_from_space", "lorentz_project", "lorentz_normalise", "lorentz_expmap0", "lorentz_logmap0",
        "poincare_expmap0", "poincare_logmap0", "poincare_project", "poincare_conformal_factor", "split_polar",
        "half_aperture", "unit_vectors", "einstein_midpoint", "tangent_to_polar",
    )
}  # fmt: skip


def test_messages_name_what_was_given() -> None:
    with pytest.raises(InputError, match=r"'x': \(6, 3\), 'y': \(6, 4\)"):
        geometry.lorentz_distance(torch.ones(6, 3), torch.ones(6, 4))
    with pytest.raises(InputError, match=r"\(\.\.\., n, d\) with d of at least 1, not \(3,\)"):
        geometry.lorentz_distance_matrix(torch.ones(3), torch.ones(2, 3))
    with pytest.raises(InputError, match="points must be a real torch tensor, not list"):
        geometry.lorentz_logmap0([1.0, 2.0])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1 space coordinate"):
        geometry.lorentz_distance(torch.ones(2, 1), torch.ones(2, 1))
    with pytest.raises(InputError, match=r"mask has the shape \(7,\), which does not fit points of \(2, 5\)"):
        einstein_midpoint(torch.ones(2, 5, 3), torch.ones(7))
    with pytest.raises(InputError, match=r"weights has the shape \(3, 5\)"):
        geometry.lorentz_centroid(torch.ones(2, 5, 3), torch.ones(3, 5))
    with pytest.raises(InputError, match="polar points must have at least 3 numbers"):
        geometry.half_aperture(torch.ones(4, 2))
