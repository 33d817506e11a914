"""Spaces of levels and their scorers: distances against recordings and float64, options, charts, files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.geometry.polar import exterior_angle, half_aperture
from hyperseek.scoring import LevelScorer, LinearScorer, Space, VectorPoints, level_options, load_scorer
from hyperseek.types import QueryOptions

LEVELS = 3


def tangents(count: int, width: int, *, longest: float = 3.0, seed: int = 0, levels: int = LEVELS) -> Tensor:
    """Tangents in random directions, of norms drawn uniformly up to `longest` at each level; float64."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, levels, width, generator=generator, dtype=torch.float64)
    norms = longest * torch.rand(count, levels, 1, generator=generator, dtype=torch.float64)
    return (vectors / vectors.norm(dim=-1, keepdim=True) * norms).flatten(1)


def scorer_of(count: int = 4, **options: Any) -> tuple[LevelScorer, VectorPoints]:
    space = Space("levels", 5, levels=LEVELS, radius_squared=2.0)
    stored = space.canonical(tangents(60, 5)).float()
    return LevelScorer(space, stored[:count], **options), VectorPoints(stored)


def true_distance(u: Tensor, v: Tensor, radius_squared: float) -> float:
    """The distance of exp_0(u) and exp_0(v) by the textbook, with 60 digits."""
    with mpmath.workdps(60):
        x, y = [mpmath.mpf(float(n)) for n in u], [mpmath.mpf(float(n)) for n in v]
        radius = mpmath.sqrt(mpmath.mpf(radius_squared))
        long_x, long_y = mpmath.sqrt(mpmath.fsum(n * n for n in x)), mpmath.sqrt(mpmath.fsum(n * n for n in y))
        p = [mpmath.tanh(long_x / radius) * n / long_x for n in x]
        q = [mpmath.tanh(long_y / radius) * n / long_y for n in y]
        apart = mpmath.fsum((a - b) ** 2 for a, b in zip(p, q, strict=True))
        borders = (1 - mpmath.fsum(n * n for n in p)) * (1 - mpmath.fsum(n * n for n in q))
        return float(radius * mpmath.acosh(1 + 2 * apart / borders))


@pytest.mark.parametrize("c", ["0.1", "1.0"])
def test_distances_equal_the_recorded_ones(golden: Path, c: str) -> None:
    path = golden / "hyperbolic" / f"poincare_c_{c}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    recorded = np.load(path)
    u, v = torch.tensor(recorded["u"]), torch.tensor(recorded["v"])
    space = Space("levels", 8, levels=2, radius_squared=1 / float(c))
    queries, documents = (space.canonical(torch.cat([side / 3, side], dim=1)) for side in (u, v))
    expected = torch.tensor(-recorded["pairwise_dist"])
    torch.testing.assert_close(space.score(queries, VectorPoints(documents)), expected, rtol=1e-9, atol=1e-9)
    single = LevelScorer(space, queries.float()).score(VectorPoints(documents.float())).double()
    torch.testing.assert_close(single, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(space.radii(queries), 2 * u.norm(dim=1))


@pytest.mark.parametrize("radius_squared", [0.4, 1.0, 10.0])
@pytest.mark.parametrize("longest", [0.5, 7.0, 20.0])
def test_float32_distances_are_right_far_out(longest: float, radius_squared: float) -> None:
    """Tangents of float32, as a model gives them, against the textbook's formula with 60 digits."""
    given = tangents(30, 6, longest=longest, levels=1).float()
    space = Space("levels", 6, levels=1, radius_squared=radius_squared)
    stored = space.canonical(given)
    assert stored.dtype == torch.float32
    found = -LevelScorer(space, stored[:8]).score(VectorPoints(stored[8:])).double()
    wanted = torch.tensor([[true_distance(u, v, radius_squared) for v in given[8:]] for u in given[:8]])
    torch.testing.assert_close(found, wanted.double(), rtol=1e-5, atol=0)
    halves = -LevelScorer(space, stored[:8]).score(VectorPoints(stored[8:].half())).double()
    torch.testing.assert_close(halves, wanted.double(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_and_gradients_of_many_points_are_finite(dtype: torch.dtype) -> None:
    space = Space("levels", 4, levels=2)
    given = tangents(100_000, 4, longest=20, levels=2)
    given[:3] = torch.tensor([0.0, 1e-30, 1e-6], dtype=torch.float64)[:, None]
    given[3:6] = given[:3]  # pairs of the same points
    given = given.to(dtype).requires_grad_()
    stored = space.canonical(given)
    for options in ({"level": 1, "document_level": 2}, {"broaden": 0.3}, {"relation": "is_a"}, {"relation": "cone"}):
        scorer = LevelScorer(space, stored[:6], **options)  # type: ignore[arg-type]
        scores = scorer.score(VectorPoints(stored))
        assert scores.shape == (6, 100_000)
        assert scores.dtype == torch.float32
        assert scores.isfinite().all()
        (gradient,) = torch.autograd.grad(scores.sum(), given, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient[6:].any()


def test_one_level_of_one_radius_ranks_as_the_cosine() -> None:
    space = Space("levels", 8, levels=1)
    given = torch.nn.functional.normalize(tangents(200, 8, levels=1), dim=1) * 3
    stored = space.canonical(given)
    cosine = Space("cosine", 8).score(given[:20], VectorPoints(given))
    assert torch.equal(
        space.score(stored[:20], VectorPoints(stored)).argsort(dim=1, descending=True)[:, :50],
        cosine.argsort(dim=1, descending=True)[:, :50],
    )


def test_levels_do_not_see_each_other() -> None:
    scorer, points = scorer_of()
    changed = points.vectors.clone()
    scorer.space.at_level(changed, 2)[:] = scorer.space.at_level(changed.flip(0), 2)
    for level in range(1, LEVELS + 1):
        same = torch.equal(scorer.at(level=level).score(points), scorer.at(level=level).score(VectorPoints(changed)))
        assert same == (level != 2)
    plain = LinearScorer(scorer.space, scorer.queries)
    assert torch.equal(plain.score(points), scorer.at(level=LEVELS).score(points))
    assert torch.equal(scorer.score(points), plain.score(points))


def test_every_pair_of_levels_is_a_distance_between_their_points() -> None:
    scorer, points = scorer_of()
    single = Space("levels", 5, levels=1, radius_squared=2.0)
    for level in range(1, LEVELS + 1):
        for document_level in range(1, LEVELS + 1):
            asked = scorer.at(level=level, document_level=document_level)
            queries = scorer.space.at_level(scorer.queries, level)
            documents = scorer.space.at_level(points.vectors, document_level)
            assert torch.equal(asked.score(points), single.score(queries, VectorPoints(documents)))
            own = points.vectors[:8].view(4, 2, -1)
            both = asked.score(points)[:, :8].view(4, 4, 2)[range(4), range(4)]
            torch.testing.assert_close(asked.score_own(own), both)
            assert asked.at(level=LEVELS).config() == scorer.config()


def test_broaden_moves_continuously_between_levels() -> None:
    scorer, points = scorer_of()
    for share, level in ((0.0, 3), (0.5, 2), (1.0, 1)):
        exact = scorer.at(level=level).score(points)
        assert torch.equal(scorer.at(broaden=share).score(points), exact)
        for near in (share - 1e-4, share + 1e-4):
            if 0 <= near <= 1:
                torch.testing.assert_close(scorer.at(broaden=near).score(points), exact, rtol=1e-2, atol=1e-2)
    between = scorer.at(broaden=0.25).score(points)
    assert not torch.equal(between.argsort(), scorer.at(level=3).score(points).argsort())


def test_is_a_adds_the_difference_of_radii_and_a_weight_of_zero_adds_nothing() -> None:
    scorer, points = scorer_of(level=2)
    space = scorer.space
    radius = 2 * tangents(60, 5)[:, 5:10].norm(dim=1).float()
    expected = scorer.score(points) - 0.7 * (radius[None] - radius[:4, None])
    asked = scorer.at(level=2, relation="is_a", radius_weight=0.7)
    torch.testing.assert_close(asked.score(points), expected)
    torch.testing.assert_close(asked.score_own(points.vectors[:8].view(4, 2, -1))[0], expected[0, :2])
    assert torch.equal(scorer.at(level=2, relation="is_a", radius_weight=0).score(points), scorer.score(points))
    assert asked.at(level=1).radius_weight == 0.7
    assert LevelScorer(space, scorer.queries, relation="is_a").radius_weight == 1


def test_cone_is_the_angle_outside_of_the_documents_cone() -> None:
    scorer, points = scorer_of(level=3, document_level=1, relation="cone")
    tips, queries = scorer.space.at_level(points.vectors, 1), scorer.space.at_level(scorer.queries, 3)
    expected = half_aperture(tips) - exterior_angle(tips[None], queries[:, None])
    torch.testing.assert_close(scorer.score(points), expected)
    torch.testing.assert_close(scorer.score_own(points.vectors[:8].view(4, 2, -1))[1], expected[1, 2:4])
    # A point that lies farther out on the ray through another one is in its cone.
    outward = scorer.space.canonical(2 * tangents(10, 5)).float()
    inward = scorer.space.canonical(tangents(10, 5)).float()
    assert (LevelScorer(scorer.space, outward, relation="cone").score_own(inward[:, None]) > 0).all()


@pytest.mark.parametrize("name", ["inner_product", "balanced", "poincare"])
@pytest.mark.parametrize("document_level", [1, 3])
def test_every_chart_of_a_level_finds_the_nearest_for_queries_of_any_level(name: str, document_level: int) -> None:
    scorer, points = scorer_of(20, level=2, document_level=document_level)
    chart = scorer.space.fit_chart(name, [points], level=document_level)
    other = scorer.space.fit_chart(name, [points], level=4 - document_level)
    assert scorer.lift(other) is None
    assert scorer.lift_within(other, torch.zeros(20)) is None
    for unsearchable in ({"broaden": 0.3}, {"relation": "cone"}, {"relation": "is_a"}):
        assert scorer.at(**unsearchable).lift(chart) is None  # type: ignore[arg-type]
    scores = scorer.score(points)
    queries = scorer.lift(chart)
    if name == "poincare":
        queries = scorer.lift_within(chart, scores.topk(11, dim=1).values[:, 9:].mean(dim=1))
    assert queries is not None
    lifted = chart.lift_documents(points)
    close = queries @ lifted.T if chart.metric == "inner_product" else -torch.cdist(queries, lifted)
    for found, wanted in zip(close.topk(10, dim=1).indices, scores.topk(10, dim=1).indices, strict=True):
        assert set(found.tolist()) == set(wanted.tolist())


def test_the_default_chart_is_that_of_the_last_level() -> None:
    scorer, points = scorer_of()
    chart = scorer.space.chart("poincare")
    assert chart.parameters == {"level": LEVELS}
    assert scorer.lift(chart) is not None
    linear = LinearScorer(scorer.space, scorer.queries)
    assert torch.equal(linear.lift(chart), scorer.lift(chart))  # type: ignore[arg-type]
    assert scorer.at(level=1, document_level=LEVELS).linear() is not None
    assert scorer.at(level=1).linear() is None
    assert torch.equal(
        scorer.space.score(scorer.at(level=1, document_level=3).linear(), points),  # type: ignore[arg-type]
        scorer.at(level=1, document_level=3).score(points),
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"level": 1},
        {"level": 2, "document_level": 3},
        {"broaden": 0.4},
        {"broaden": 0.4, "relation": "cone"},
        {"level": 2, "relation": "is_a", "radius_weight": 0.0},
    ],
)
def test_scorers_are_saved_joined_and_cut(options: dict[str, Any], tmp_path: Path) -> None:
    scorer, points = scorer_of(**options)
    scorer = LevelScorer.of(scorer.space, scorer.queries, QueryOptions(**options))
    scorer.save(tmp_path / "queries.safetensors")
    loaded = load_scorer(tmp_path / "queries.safetensors")
    assert isinstance(loaded, LevelScorer)
    assert loaded.options == QueryOptions(**options)
    assert torch.equal(loaded.score(points), scorer.score(points))
    joined = LevelScorer.concatenate([scorer[:2], scorer[2:]])
    assert torch.equal(joined.score(points), scorer.score(points))
    short = scorer.shortened(2)
    cut = scorer.space.shortened(2).canonical(tangents(60, 5).unflatten(1, (LEVELS, 5))[..., :2].flatten(1)).float()
    others = VectorPoints(cut[4:])
    torch.testing.assert_close(short.score(others), LevelScorer(short.space, cut[:4], **options).score(others))


def test_a_trained_curvature_gets_its_gradient() -> None:
    """Against finite differences: radii fall with R, distances in units of R are multiplied by it."""
    given = tangents(6, 3, levels=2)

    def score(radius_squared: Tensor) -> Tensor:
        one = (radius_squared / radius_squared.detach()).sqrt()
        space = Space("levels", 3, levels=2, radius_squared=float(radius_squared.detach()))
        stored = space.canonical(given / one)
        scorer = LevelScorer(space, stored[:2], level=1, document_level=2, factor=one)
        return scorer.score(VectorPoints(stored)).sum()

    value = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(score(value), value)
    step = 1e-3
    expected = (score(value.detach() + step) - score(value.detach() - step)) / (2 * step)
    torch.testing.assert_close(gradient.float(), expected.float(), rtol=1e-2, atol=1e-3)
    assert abs(float(gradient)) > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0}, "level must be a whole number from 1, the broadest, to 3; given 0"),
        ({"level": 4}, "given 4"),
        ({"document_level": 0}, "document_level must be"),
        ({"level": True}, "given True"),
        ({"broaden": 1.5}, "broaden must be a number from 0 to 1; given 1.5"),
        ({"broaden": 0.5, "level": 1}, "broaden is given in place of level"),
        ({"relation": "part_of"}, "part_of"),
        ({"radius_weight": 2.0}, "belongs to the relation 'is_a'"),
        ({"radius_weight": -1.0, "relation": "is_a"}, "at least 0"),
        ({"radius_weight": math.nan, "relation": "is_a"}, "at least 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperseekError, match=message.replace("(", r"\(")):
        scorer_of(**options)


def test_spaces_are_checked_and_round_trip() -> None:
    space = Space("levels", 4, 3, radius_squared=0.5)
    assert Space.from_json(space.to_json()) == space
    assert (space.width, space.coordinates, space.levels) == (18, 12, 3)
    assert Space("lorentz", 4).levels == 1
    with pytest.raises(HyperseekError, match="levels"):
        Space("levels", 4)
    with pytest.raises(HyperseekError, match="at least 1"):
        Space("levels", 4, levels=0)
    with pytest.raises(HyperseekError, match="tangent at level 2"):
        space.canonical(torch.cat([torch.ones(1, 4), torch.full((1, 4), 1e6), torch.ones(1, 4)], dim=1))
    with pytest.raises(HyperseekError, match="undefined numbers"):
        space.canonical(torch.full((1, 12), math.nan))
    with pytest.raises(HyperseekError, match="has levels to choose from"):
        LevelScorer(Space("dot", 4), torch.ones(1, 4))
    with pytest.raises(HyperseekError, match="only one"):
        Space("lorentz", 4).at_level(torch.ones(1, 6), 2)
    with pytest.raises(HyperseekError, match="parameter of a chart"):
        space.chart("poincare", bound=1.0, levle=1)
    assert set(level_options(3)) == {"level", "document_level", "broaden", "relation", "radius_weight"}
