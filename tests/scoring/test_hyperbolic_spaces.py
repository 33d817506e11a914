"""Hyperbolic spaces against recorded values, against float64, and through every chart."""

from __future__ import annotations

import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from hyperseek import Document, HyperseekError, Index
from hyperseek.geometry.polar import poincare_to_polar, polar_distance, polar_to_lorentz, polar_to_poincare
from hyperseek.scoring import LinearScorer, Space, VectorPoints


def hyperboloid(count: int, dimension: int, *, radius: float, seed: int = 0) -> Tensor:
    """Points at uniformly drawn distances up to `radius`, float64, on the hyperboloid of radius 1."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(count, dimension, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=1, keepdim=True)
    rho = radius * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return torch.cat([rho.cosh(), rho.sinh() * direction], dim=1)


@pytest.mark.parametrize("radius_squared", ["0.1", "1.0"])
def test_lorentz_scores_equal_the_recorded_ones(golden: Path, radius_squared: str) -> None:
    path = golden / "hyperbolic" / f"lorentz_R2_{radius_squared}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    recorded = np.load(path)
    x, y = torch.tensor(recorded["x"]), torch.tensor(recorded["y"])
    space = Space("lorentz", 8, float(recorded["radius_sq"]))
    stored, queries = space.canonical(y), space.canonical(x)
    expected = {
        "geodesic": -recorded["pairwise_dist"],
        "squared": -recorded["pairwise_sq_lorentz"],
        "inner": recorded["pairwise_inner"],
    }
    for similarity, values in expected.items():
        own = Space("lorentz", 8, space.radius_squared, similarity)  # type: ignore[arg-type]
        scores = own.score(queries, VectorPoints(stored))
        torch.testing.assert_close(scores, torch.tensor(values), rtol=1e-6, atol=1e-9)
        single = own.score(queries.float(), VectorPoints(stored.float())).double()
        torch.testing.assert_close(single, torch.tensor(values), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("c", ["0.1", "1.0"])
def test_poincare_scores_equal_the_recorded_ones(golden: Path, c: str) -> None:
    path = golden / "hyperbolic" / f"poincare_c_{c}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    recorded = np.load(path)
    space = Space("poincare", 8, 1 / float(c))
    scores = space.score(
        space.canonical(torch.tensor(recorded["a"])), VectorPoints(space.canonical(torch.tensor(recorded["b"])))
    )
    expected = torch.tensor(-recorded["pairwise_dist_from_float64_points"])
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["lorentz", "poincare"])
def test_float32_ranks_as_float64_far_from_the_origin(kind: str) -> None:
    points = hyperboloid(400, 5, radius=11)
    exact = torch.acosh(-(points @ torch.diag(torch.tensor([-1.0, *[1.0] * 5], dtype=torch.float64)) @ points.T))
    space = Space(kind, 5)
    coordinates = points if kind == "lorentz" else points[:, 1:] / (1 + points[:, :1])
    stored = space.canonical(coordinates).float()
    scores = -space.score(stored[:50], VectorPoints(stored)).double()
    wanted = exact[:50].nan_to_num(0)
    wanted[wanted < 1e-3] = 0
    torch.testing.assert_close(scores, wanted, rtol=1e-4, atol=3e-3)


def test_a_point_is_at_distance_zero_of_itself() -> None:
    space = Space("lorentz", 4)
    stored = space.canonical(hyperboloid(20, 4, radius=9)).float()
    assert space.score(stored, VectorPoints(stored)).diagonal().abs().max() == 0


def test_half_precision_keeps_radii_that_the_hyperboloid_would_lose() -> None:
    """Two points in one direction, three ten-thousandths apart, ten away from the origin."""
    rho = torch.tensor([[10.0], [10.0003]])
    coordinates = torch.cat([rho.cosh(), rho.sinh(), torch.zeros(2, 3)], dim=1)
    assert torch.equal(coordinates.half()[0], coordinates.half()[1])
    space = Space("lorentz", 4)
    halved = space.canonical(coordinates).half()
    distance = -float(space.score(halved[:1], VectorPoints(halved[1:])))
    assert distance == pytest.approx(3e-4, rel=0.03)


@pytest.mark.parametrize("kind", ["lorentz", "poincare"])
@pytest.mark.parametrize("name", ["inner_product", "balanced", "poincare"])
def test_every_chart_finds_the_nearest(kind: str, name: str) -> None:
    points = hyperboloid(300, 3, radius=3)
    space = Space(kind, 3)
    coordinates = points if kind == "lorentz" else points[:, 1:] / (1 + points[:, :1])
    stored = space.canonical(coordinates)
    queries, documents = stored[:20], VectorPoints(stored[20:])
    best = space.score(queries, documents).argmax(dim=1)
    chart = space.fit_chart(name, [documents])
    lifted, lifted_queries = chart.lift_documents(documents), chart.lift_queries(queries)
    if chart.metric == "inner_product":
        order = (lifted_queries @ lifted.T).argsort(dim=1, descending=True)
    else:
        order = torch.cdist(lifted_queries, lifted).argsort(dim=1)
    # The ball's chart bends distances: the nearest is among its first, not always its first.
    places = (order == best[:, None]).int().argmax(dim=1)
    assert int(places.max()) <= (40 if name == "poincare" else 0)


@pytest.mark.parametrize("similarity", ["geodesic", "squared", "inner"])
@pytest.mark.parametrize("kind", ["lorentz", "poincare"])
def test_the_ball_around_a_query_is_a_ball_of_its_chart(kind: str, similarity: str) -> None:
    """Far from all documents the chart ranks wrongly around the query, and rightly around the centre of the ball."""
    space = Space(kind, 3, 2.5, similarity)  # type: ignore[arg-type]
    points = hyperboloid(320, 3, radius=4) * math.sqrt(2.5)
    coordinates = points if kind == "lorentz" else points[:, 1:] / (math.sqrt(2.5) + points[:, :1]) * math.sqrt(2.5)
    stored = space.canonical(coordinates)
    scorer, documents = LinearScorer(space, stored[:20].float()), VectorPoints(stored[20:].float())
    scores, best = scorer.score(documents).topk(11, dim=1)
    chart = space.chart("poincare")
    lifted = chart.lift_documents(documents)

    def nearest(queries: Tensor | None) -> list[set[int]]:
        assert queries is not None
        return [set(row) for row in torch.cdist(queries, lifted).topk(10, largest=False).indices.tolist()]

    wanted = [set(row) for row in best[:, :10].tolist()]
    assert nearest(scorer.lift(chart)) != wanted
    assert nearest(scorer.lift_within(chart, scores[:, 9:].mean(dim=1))) == wanted
    assert scorer.lift_within(space.fit_chart("balanced", [documents]), scores[:, 0]) is None
    origin = scorer.lift_within(chart, torch.full((20,), -torch.inf))
    assert origin is not None
    assert not origin.any()


def test_own_scores_and_round_trips() -> None:
    space = Space("lorentz", 6, 2.5)
    points = hyperboloid(12, 6, radius=4) * math.sqrt(2.5)
    stored = space.canonical(points)
    torch.testing.assert_close(polar_to_lorentz(stored, 2.5), points)
    ball = polar_to_poincare(stored, 1 / 2.5)
    torch.testing.assert_close(poincare_to_polar(ball, 1 / 2.5), stored, atol=1e-6, rtol=1e-6)
    scorer = LinearScorer(space, stored[:3])
    own = stored.reshape(3, 4, -1)
    everything = scorer.score(VectorPoints(stored)).reshape(3, 3, 4)
    torch.testing.assert_close(scorer.score_own(own), everything[torch.arange(3), torch.arange(3)])
    assert Space.from_json(space.to_json()) == space
    assert Space.from_json(Space("dot", 3).to_json()) == Space("dot", 3)


def test_the_bound_leaves_room() -> None:
    space = Space("dot", 2)
    documents = VectorPoints(torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    assert space.fit_chart("balanced", [documents]).bound == pytest.approx(5 * 1.25)
    assert space.fit_chart("balanced", []).bound == 1.0
    chart = space.fit_chart("balanced", [documents])
    assert len(chart.lift_documents(VectorPoints(torch.tensor([[6.2, 0.0]])))) == 1
    with pytest.raises(
        HyperseekError, match=r"norm 6.3, beyond the bound 6.25 of the balanced chart; build the engine"
    ):
        chart.lift_documents(VectorPoints(torch.tensor([[6.3, 0.0]])))
    with pytest.raises(HyperseekError, match="headroom must be at least 1"):
        space.fit_chart("balanced", [documents], headroom=0.5)


def test_bad_hyperbolic_spaces_are_refused() -> None:
    with pytest.raises(HyperseekError, match="radius_squared must be positive"):
        Space("lorentz", 3, 0.0)
    with pytest.raises(HyperseekError, match="'dot' space has no parameters"):
        Space("dot", 3, 2.0)
    with pytest.raises(HyperseekError, match="did you mean 'squared'"):
        Space("lorentz", 3, 1.0, "sqared")  # type: ignore[arg-type]
    with pytest.raises(HyperseekError, match="have 4 coordinates, not 3"):
        Space("lorentz", 3).canonical(torch.zeros(1, 3))
    with pytest.raises(HyperseekError, match="unknown chart"):
        Space("dot", 3).chart("poincare")
    with pytest.raises(HyperseekError, match="needs a positive, finite bound"):
        Space("dot", 3).chart("balanced")


def far_points(radii: list[float], angles: list[float]) -> Tensor:
    """Return polar points in the plane, in float64."""
    directions = torch.tensor([[math.cos(angle), math.sin(angle)] for angle in angles], dtype=torch.float64)
    return torch.cat([directions, torch.tensor([[radius, 0.0] for radius in radii], dtype=torch.float64)], dim=1)


def true_distance(x: Tensor, y: Tensor) -> float:
    """Return a distance from logarithms of 60 digits."""
    with mpmath.workdps(400):
        u, v = (mpmath.matrix(point[:2].tolist()) for point in (x, y))
        rho, sigma = (mpmath.mpf(float(point[2])) for point in (x, y))
        chord = mpmath.norm(u - v)
        square = mpmath.sinh((rho - sigma) / 2) ** 2 + mpmath.sinh(rho) * mpmath.sinh(sigma) * chord**2 / 4
        return float(2 * mpmath.asinh(mpmath.sqrt(square)))


RADII = [0.0, 1e-30, 1.0, 40.0, 87.0, 88.5, 100.0, 177.0, 300.0, 709.0, 5000.0, 60_000.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_geodesic_scores_are_right_at_every_radius_that_is_stored(dtype: torch.dtype) -> None:
    first = far_points(RADII, [0.0] * len(RADII)).to(dtype)
    for angle in (0.0, 1e-3, 1.0, math.pi):
        second = far_points(RADII, [angle] * len(RADII)).to(dtype)
        found = Space("lorentz", 2).score(first, VectorPoints(second))
        own = Space("lorentz", 2).score_own(first, second[:, None])[:, 0]
        wanted = [[-true_distance(x, y) for y in second.double()] for x in first.double()]
        tolerance = {"rtol": 2e-6, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
        torch.testing.assert_close(found, torch.tensor(wanted, dtype=dtype), **tolerance)
        torch.testing.assert_close(own, found.diagonal(), rtol=1e-6, atol=1e-5)


def test_gradients_of_far_distances_are_finite_and_those_of_near_ones_unchanged() -> None:
    points = far_points(RADII, [0.1 * place for place in range(len(RADII))])
    points = torch.cat([points, points[-1:], points[5:6] * 1.0]).float().requires_grad_()
    near = points.detach()[:5].clone().requires_grad_()
    polar_distance(points, points).sum().backward()
    polar_distance(near, near).sum().backward()
    assert points.grad is not None
    assert near.grad is not None
    assert points.grad.isfinite().all()
    among = points.detach()[:5].clone().requires_grad_()
    polar_distance(torch.cat([among, points.detach()[-1:]]), among)[:5].sum().backward()
    assert among.grad is not None
    torch.testing.assert_close(among.grad, near.grad)
    # Behind one another, a step outwards is a step away.
    line = far_points([10.0, 400.0], [0.0, 0.0]).float().requires_grad_()
    polar_distance(line[:1], line[1:]).sum().backward()
    assert line.grad is not None
    torch.testing.assert_close(line.grad[:, 2], torch.tensor([-1.0, 1.0]))


def test_a_search_finds_the_nearest_of_far_points(tmp_path: Path) -> None:
    radii = [1.0, 299.0, 300.0, 301.0, 350.0]
    points = torch.tensor([[math.cosh(r), math.sinh(r), 0.0] for r in radii], dtype=torch.float64)
    space = Space("lorentz", 2)
    pairs = [(Document(str(round(r)), "text"), point) for r, point in zip(radii, points, strict=True)]
    index = Index.from_vectors(tmp_path / "index", pairs, space)
    hits = index.search(LinearScorer(space, space.canonical(points[:1]).float()), k=5)[0]
    assert [hit.id for hit in hits] == ["1", "299", "300", "301", "350"]
    assert [hit.score for hit in hits] == pytest.approx([0, -298, -299, -300, -349], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("similarity", ["squared", "inner"])
def test_points_whose_scores_would_overflow_are_refused(similarity: str) -> None:
    points = torch.tensor([[math.cosh(r), math.sinh(r), 0.0] for r in (1.0, 44.0, 45.0)], dtype=torch.float64)
    space = Space("lorentz", 2, similarity=similarity)
    with pytest.raises(HyperseekError, match=rf"point 2 is 45 R from the origin.*'{similarity}'.*beyond 44\.36 R"):
        space.canonical(points)
    stored = space.canonical(points[:2]).float()
    opposite = stored * torch.tensor([-1.0, 1, 1, 1])
    scores = space.score(stored, VectorPoints(opposite))
    assert (scores > torch.finfo(torch.float32).min).all()
    assert (scores[1, 1] < scores[0, 1]) & (scores[0, 1] < scores[0, 0])
