"""The disk: projections that keep radii, sectors of a hierarchy, geodesics, and what is shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from hyperseek import HyperseekError
from hyperseek._ancestors import Hierarchy
from hyperseek.analysis._radii import distances, radius_by_specificity
from hyperseek.analysis.disk import agreement, arcs, best_scale, choose_view, fan, project, to_disk
from hyperseek.scoring import Space


def polar(angles: np.ndarray, rho: np.ndarray, dimension: int = 2) -> torch.Tensor:
    rows = np.zeros((len(rho), dimension + 2))
    rows[:, 0], rows[:, 1], rows[:, dimension] = np.cos(angles), np.sin(angles), rho
    return torch.from_numpy(rows)


def between(first: complex, second: complex) -> float:
    return 2 * float(np.arctanh(abs((first - second) / (1 - np.conj(first) * second))))


@pytest.fixture
def plane() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.uniform(-np.pi, np.pi, 50), generator.uniform(0, 6, 50)


@pytest.mark.parametrize("dimension", [2, 6])
def test_what_lies_in_a_plane_loses_nothing(plane: tuple[np.ndarray, np.ndarray], dimension: int) -> None:
    angles, rho = plane
    vectors = polar(angles, rho, dimension)
    turned = torch.linalg.qr(torch.randn(dimension, dimension, generator=torch.Generator().manual_seed(0)).double()).Q
    vectors[:, :dimension] = vectors[:, :dimension] @ turned
    space = Space("poincare", dimension)
    found, radii, share = project(space, vectors)
    assert share == pytest.approx(1)
    np.testing.assert_allclose(radii, rho, atol=1e-12)
    drawn = to_disk(found, radii, 1.0)
    true = distances(space, vectors, vectors).numpy()
    assert between(drawn[3], drawn[7]) == pytest.approx(true[3, 7], rel=1e-6)
    assert agreement(vectors, found, radii)[0] == pytest.approx(1)


def test_a_projection_keeps_radii_and_says_what_it_lost() -> None:
    generator = np.random.default_rng(1)
    directions = generator.standard_normal((300, 5)) * [3, 2, 1, 0.5, 0.5]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    rho = generator.uniform(0.5, 4, 300)
    vectors = torch.from_numpy(np.column_stack([directions, rho, np.zeros(300)]))
    angles, radii, share = project(Space("lorentz", 5), vectors)
    tangent = directions * rho[:, None]
    spectrum = np.sort(np.linalg.svd(tangent, compute_uv=False) ** 2)[::-1]
    assert share == pytest.approx(spectrum[:2].sum() / spectrum.sum())
    np.testing.assert_allclose(radii, rho)
    value, pairs = agreement(vectors, angles, radii)
    true = distances(Space("lorentz", 5), vectors, vectors).numpy()
    drawn = to_disk(angles, radii, 1.0)
    pictured = 2 * np.arctanh(np.abs((drawn[:, None] - drawn) / (1 - drawn[:, None].conj() * drawn)))
    upper = np.triu_indices(300, 1)
    assert value == pytest.approx(spearmanr(true[upper], pictured[upper]).statistic, abs=0.02)
    assert pairs > 1000


def test_one_dimension_and_one_point_are_drawn() -> None:
    line = torch.tensor([[1.0, 2, 0], [-1, 1, 0]])
    angles, rho, share = project(Space("lorentz", 1), line)
    np.testing.assert_allclose(to_disk(angles, rho, 1.0), [np.tanh(1), -np.tanh(0.5)], atol=1e-6)
    assert share == 1
    origin = torch.zeros(1, 4)
    assert project(Space("lorentz", 2), origin)[2] == 1
    assert best_scale(np.zeros(1)) == 1


def test_flat_spaces_have_no_disk() -> None:
    with pytest.raises(HyperseekError, match="not of a 'dot' one"):
        project(Space("dot", 2), torch.zeros(3, 2))


def test_the_scale_brings_most_points_inside() -> None:
    rho = np.linspace(0, 50, 1001)
    assert np.tanh(best_scale(rho) * 47.5 / 2) == pytest.approx(0.93, abs=1e-6)


def test_geodesics_cross_the_rim_at_right_angles() -> None:
    first, second = np.array([0.3 + 0.2j, 0.5, -0.2j]), np.array([-0.5 + 0.1j, -0.5, -0.2j])
    lines = arcs(first, second, steps=9)
    np.testing.assert_allclose(lines[:, 0], first, atol=1e-12)
    np.testing.assert_allclose(lines[:, -1], second, atol=1e-12)
    np.testing.assert_allclose(lines[1].imag, 0, atol=1e-12)  # through the origin: straight
    np.testing.assert_allclose(lines[2], -0.2j, atol=1e-12)
    steps = [between(one, other) for one, other in zip(lines[0], lines[0][1:], strict=False)]
    np.testing.assert_allclose(steps, between(first[0], second[0]) / 8)


def test_sectors_are_as_wide_as_subtrees_have_leaves() -> None:
    # A root with a leaf (1) and an inner node (2), which has three leaves; and a second root (6), alone.
    parents = np.array([-1, 0, 0, 2, 2, 2, -1])
    angles = fan(parents, np.array([0.0, -0.1, 0.5, 0.4, 0.6, 0.5, 3.0]))
    unit = 2 * np.pi / 5
    assert angles[2] - angles[1] == pytest.approx(2 * unit)
    assert angles[2] == pytest.approx(angles[5])
    assert angles[[3, 5, 4]] == pytest.approx(angles[5] + np.array([-1, 0, 1]) * unit)
    assert angles[0] == pytest.approx((angles[1] + angles[4]) / 2)
    leaves = np.sort(angles[[1, 3, 4, 5, 6]])
    np.testing.assert_allclose(np.diff(leaves), unit)


def test_a_view_holds_all_ancestors_that_are_documents() -> None:
    edges = [(f"d{row}", f"d{(row - 1) // 2}") for row in range(1, 63)]
    edges += [("d0", "above"), ("d1", "d0")]
    ids = [f"d{row}" for row in range(63) if row != 2]  # that one is no document
    view = choose_view(ids, Hierarchy.from_edges(edges), sample=20, seed=0)
    assert len(view.rows) <= 20
    shown = [ids[row] for row in view.rows]
    for name, parent in zip(shown, view.parents, strict=True):
        above = (int(name[1:]) - 1) // 2
        above = 0 if above == 2 else above
        assert (parent == -1) if name == "d0" else (shown[parent] == f"d{above}")
    assert set(view.groups) == set(range(-1, len(view.names)))  # only branches that are shown
    assert view.groups[shown.index("d0")] == -1


def test_without_a_hierarchy_a_view_is_a_sample() -> None:
    view = choose_view([str(row) for row in range(50)], None, sample=10, seed=3)
    assert len(view.rows) == 10
    assert (np.diff(view.rows) > 0).all()
    assert set(view.parents) == set(view.groups) == {-1}
    assert view.names == []


def test_levels_of_few_and_of_many_values() -> None:
    radii = np.array([1.0, 2, 3, 4, 5, 9])
    found = radius_by_specificity(radii, np.array([0, 0, 1, 1, 2, np.nan]), by="depth")
    assert (found.count, [level.mean for level in found.levels]) == (5, [1.5, 3.5, 5.0])
    assert found.spearman == pytest.approx(spearmanr(radii[:5], [0, 0, 1, 1, 2]).statistic)
    many = radius_by_specificity(np.arange(100.0), np.arange(100.0) * 3, by="length")
    assert (many.spearman, many.p_value) == (pytest.approx(1), pytest.approx(0))
    assert len(many.levels) == 10
    assert {level.count for level in many.levels} <= {9, 10, 11}
    assert [level.low for level in many.levels] == sorted(level.low for level in many.levels)
    constant = radius_by_specificity(radii, np.ones(6), by="depth")
    assert np.isnan(constant.spearman)
    assert constant.p_value == 1
    with pytest.raises(HyperseekError, match="2 documents have a number for depth"):
        radius_by_specificity(radii[:2], radii[:2], by="depth")
